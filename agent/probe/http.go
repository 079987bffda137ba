package probe

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"multiroute/agent/config"
)

const (
	maxBody       = 4 << 10 // bytes of an HTTP answer that are read
	maxHTTPHeader = 16 << 10
	maxQuoted     = 80 // bytes of what others wrote, in a message
)

// parseURL returns what an HTTP target asks for.
func parseURL(t config.Target) (*url.URL, error) {
	scheme, port := "http", uint16(80)
	if t.Scheme == config.HTTPS {
		scheme, port = "https", 443
	}
	host := t.Host
	if t.Addr.IsValid() {
		host = t.Addr.String()
	}
	if t.Port != 0 && t.Port != port {
		host = net.JoinHostPort(host, strconv.Itoa(int(t.Port)))
	} else if t.Addr.Is6() {
		host = "[" + host + "]"
	}
	u, err := url.Parse(scheme + "://" + host + cmp.Or(t.Path, "/"))
	if err != nil {
		return nil, fmt.Errorf("parsing its URL: %w", err)
	}
	return u, nil
}

// portHTTP is where an HTTP target listens.
func portHTTP(t config.Target) uint16 {
	if t.Port == 0 && t.Scheme == config.HTTPS {
		return 443
	}
	return cmp.Or(t.Port, 80)
}

// checkAnswer says what is wrong with an HTTP answer; nil: it is the one that is
// expected. The body is read only if something is expected of it.
func checkAnswer(t config.Target, answer *http.Response) error {
	if s := answer.StatusCode; t.Status == 0 && (s < 200 || s > 299) || t.Status != 0 && t.Status != s {
		if where := answer.Header.Get("Location"); s >= 300 && s <= 399 && where != "" {
			return fmt.Errorf("redirected (status %d) to %.*q: captive portal?", s, maxQuoted, where)
		}
		return fmt.Errorf("status %d instead of %s: captive portal?", s, expected(t))
	}
	if t.Body == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	if bytes.Contains(body, []byte(t.Body)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return fmt.Errorf("the answer begins with %.*q and lacks %q: captive portal?", maxQuoted, body, t.Body)
}

// expected is the status that a target should have.
func expected(t config.Target) string {
	if t.Status == 0 {
		return "2xx"
	}
	return strconv.Itoa(t.Status)
}
