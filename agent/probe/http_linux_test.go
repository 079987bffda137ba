package probe

import (
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"multiroute/agent/config"
	"multiroute/routes"
	"multiroute/test/lab"
)

// web is a web server of the lab, and how often each path was asked for.
type web struct {
	*httptest.Server
	asked atomic.Int64 // requests for /login, where the portal sends people
	bad   atomic.Value // a request that should not look so
}

// Ports of the web servers.
const portWeb, portTLS = 8081, 8443

// newWeb starts a web server on the internet.
func newWeb(t *testing.T, w *world, port uint16, start func(*httptest.Server)) *web {
	t.Helper()
	l, err := w.Internet.ListenTCP(lab.Socket{Local: netip.AddrPortFrom(netip.IPv6Unspecified(), port)})
	if err != nil {
		t.Fatal(err)
	}
	s := &web{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // our connections end with resets
	s.Listener.Close()
	s.Listener = l
	start(s.Server)
	t.Cleanup(s.Close)
	return s
}

// serve answers as web sites, and as those who pretend to be.
func (s *web) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.Header.Get("User-Agent") != "multiroute" || r.ProtoMajor != 1 || !r.Close || r.Header.Get("Accept-Encoding") != "" {
		s.bad.Store(fmt.Sprint(r.Method, r.Proto, r.Header, r.Close))
	}
	switch r.URL.Path {
	case "/generate_204":
		w.WriteHeader(http.StatusNoContent)
	case "/ok":
		fmt.Fprint(w, "Microsoft ", r.URL.RawQuery, " success\n")
	case "/redirect":
		http.Redirect(w, r, "/login", http.StatusFound)
	case "/login":
		s.asked.Add(1)
		fmt.Fprint(w, "<html>Please log in")
	case "/late":
		fmt.Fprint(w, strings.Repeat(" ", maxBody), "success")
	case "/endless":
		for r.Context().Err() == nil {
			if _, err := fmt.Fprint(w, strings.Repeat("x", 1<<10)); err != nil {
				return
			}
		}
	case "/header":
		w.Header().Set("X", strings.Repeat("x", 1<<20))
	case "/silent":
		<-r.Context().Done()
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// webTarget asks a web server.
func webTarget(scheme config.Scheme, host string, port uint16, path string, status int, body string) config.Target {
	t := config.Target{Text: "web" + path, Scheme: scheme, Host: host, Port: port, Path: path, Status: status, Body: body}
	if a, err := netip.ParseAddr(host); err == nil {
		t.Addr = a
	}
	return t
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	w.routeAddresses(t)
	s := newWeb(t, w, portWeb, (*httptest.Server).Start)
	for _, family := range families {
		host := internet(family).String()
		for _, c := range []struct {
			path   string
			status int
			body   string
			want   string
		}{
			{"/generate_204", 204, "", ""},
			{"/generate_204", 0, "", ""},
			{"/ok", 0, "", ""},
			{"/ok?Connect=Test", 0, "Connect=Test success", ""},
			{"/endless", 0, "", ""},
			{"/ok", 204, "", "web/ok: status 200 instead of 204: captive portal?"},
			{"/redirect", 0, "", `web/redirect: redirected (status 302) to "/login": captive portal?`},
			{"/redirect", 302, "", ""},
			{"/login", 0, "success", `web/login: the answer begins with "<html>Please log in" and lacks "success": captive portal?`},
			{"/late", 0, "success", `web/late: the answer begins with "` + strings.Repeat(" ", maxQuoted) + `" and lacks "success": captive portal?`},
			{"/missing", 0, "", "web/missing: status 404 instead of 2xx: captive portal?"},
			{"/header", 0, "", "web/header: net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 16384 bytes; aborted"},
		} {
			p := w.open(t, w.Uplinks[1], family, webTarget(config.HTTP, host, portWeb, c.path, c.status, c.body))
			if c.want == "" {
				p.answered(t, 0)
			} else {
				p.refused(t, 0, c.want)
			}
		}
		p := w.open(t, w.Uplinks[1], family, webTarget(config.HTTP, host, 81, "/", 0, ""), webTarget(config.HTTP, host, portWeb, "/silent", 0, ""))
		p.refused(t, 0, "web/: connect: connection refused")
		p.send(1, 20*time.Millisecond)
		if r := p.outstandingEnds(t); r != 0 {
			t.Errorf("%d results of a server that says nothing", r)
		}
	}
	if n := s.asked.Load(); n != 2 {
		t.Errorf("/login was asked for %d times: redirects were followed", n)
	}
	if bad := s.bad.Load(); bad != nil {
		t.Errorf("request %v", bad)
	}
	if err := w.Leaks(); err != nil {
		t.Error(err)
	}
}

// outstandingEnds waits until no probe is waiting that has a goroutine, and
// returns the number of results.
func (c *client) outstandingEnds(t *testing.T) int {
	t.Helper()
	eventually(t, func() error {
		c.outstanding.mu.Lock()
		defer c.outstanding.mu.Unlock()
		for _, s := range c.outstanding.probes {
			if s.waiting {
				return fmt.Errorf("probe %d is still waiting", s.token)
			}
		}
		return nil
	})
	return len(c.results)
}

func TestHTTPS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	s := newWeb(t, w, portTLS, (*httptest.Server).StartTLS) // its certificate is for example.com
	w.roots = x509.NewCertPool()
	w.roots.AddCert(s.Certificate())
	w.Server.Resolve("example.com", time.Minute, lab.InternetAddress, lab.InternetAddress6)
	w.Server.Resolve("www.bank.test", time.Minute, lab.InternetAddress, lab.InternetAddress6)
	for _, family := range families {
		p := w.open(t, w.Uplinks[1], family,
			webTarget(config.HTTPS, "example.com", portTLS, "/ok", 0, "success"),
			webTarget(config.HTTPS, "www.bank.test", portTLS, "/ok", 0, "success"),
			webTarget(config.HTTPS, "example.com", lab.PortHTTP, "/ok", 0, ""))
		p.answered(t, 0)
		// Hijacked DNS: another machine has taken the name.
		p.refused(t, 1, "web/ok: tls: failed to verify certificate: x509: certificate is valid for example.com, *.example.com, not www.bank.test")
		p.refused(t, 2, "web/ok: tls: first record does not look like a TLS handshake")
	}
	w.roots = x509.NewCertPool()
	p := w.open(t, w.Uplinks[1], routes.IPv4, webTarget(config.HTTPS, "example.com", portTLS, "/ok", 0, ""))
	p.refused(t, 0, "web/ok: tls: failed to verify certificate: x509: certificate signed by unknown authority")
}

// A portal that answers for every name is not taken for the target.
func TestHijackedDNS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, lab.NewRouter, lab.Options{})
	newWeb(t, w, portWeb, (*httptest.Server).Start)
	w.Server.Resolve("*.test", 0, lab.InternetAddress, lab.InternetAddress6)
	p := w.open(t, w.Uplinks[0], routes.IPv4,
		webTarget(config.HTTP, "www.target.test", portWeb, "/redirect", 204, ""),
		webTarget(config.HTTP, "www.target.test", portWeb, "/login", 204, ""))
	p.refused(t, 0, `web/redirect: redirected (status 302) to "/login": captive portal?`)
	p.refused(t, 1, "web/login: status 200 instead of 204: captive portal?")
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		target config.Target
		want   string
		port   uint16
	}{
		{webTarget(config.HTTP, "example.com", 80, "/a?b=c", 0, ""), "http://example.com/a?b=c", 80},
		{webTarget(config.HTTP, "example.com", 0, "/", 0, ""), "http://example.com/", 80},
		{webTarget(config.HTTP, "example.com", 443, "", 0, ""), "http://example.com:443/", 443},
		{webTarget(config.HTTPS, "example.com", 0, "/", 0, ""), "https://example.com/", 443},
		{webTarget(config.HTTPS, "2001:db8::1", 443, "/", 0, ""), "https://[2001:db8::1]/", 443},
		{webTarget(config.HTTPS, "2001:db8::1", 8443, "/", 0, ""), "https://[2001:db8::1]:8443/", 8443},
		{webTarget(config.HTTP, "192.0.2.1", 80, "/", 0, ""), "http://192.0.2.1/", 80},
	} {
		u, err := parseURL(c.target)
		if err != nil || u.String() != c.want || portHTTP(c.target) != c.port {
			t.Errorf("got %v, %v, port %d; want %s, port %d", u, err, portHTTP(c.target), c.want, c.port)
		}
	}
}
