package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Target is one thing to probe. Targets can be compared with ==.
type Target struct {
	Text   string // as written, for messages
	Scheme Scheme
	Addr   netip.Addr // what was written as an address; invalid: resolve Host through the uplink, or ask the gateway
	Host   string     // as written, an address without brackets; empty only for GatewayTarget
	Port   uint16     // 0: none (ICMP, GatewayTarget)
	Name   string     // DNS: what is asked for
	Path   string     // HTTP, HTTPS: path and query, never empty
	Status int        // HTTP, HTTPS: the status expected; 0: any of 200 to 299
	Body   string     // HTTP, HTTPS: text that the first 4 KiB of the body must contain; "": any
}

// String returns the target as it was written.
func (t Target) String() string { return t.Text }

// Scheme is the way to probe a target.
type Scheme int

// The ways to probe.
const (
	ICMP          Scheme = iota // echo request
	TCP                         // connect
	DNS                         // a query over UDP
	HTTP                        // GET; redirects are answers, and not followed
	HTTPS                       // the same, with a certificate that is valid for Host
	GatewayTarget               // is the uplink's gateway there (ARP, neighbour solicitation)
)

// schemes are the ways to probe that are written as a URL, with their default ports.
var schemes = map[string]struct {
	scheme Scheme
	port   uint16
}{"icmp": {ICMP, 0}, "tcp": {TCP, 0}, "dns": {DNS, 53}, "http": {HTTP, 80}, "https": {HTTPS, 443}}

// target4 and target6 are what health checks probe, per family.
var (
	target4 = text(`a target such as "icmp://192.0.2.1"`, func(s string) (Target, error) { return parseTarget(s, netip.Addr.Is4) })
	target6 = text(`a target such as "icmp://[2001:db8::1]"`, func(s string) (Target, error) { return parseTarget(s, netip.Addr.Is6) })
)

// targets is a kind of lists of them. All are probed at once when one is suspect,
// many times a second, so there is no use in more.
func targets(elem kind) kind {
	const most = 8
	list := listOf[Target](elem)
	return kind{list.wants, func(n *node, fail func(*node, string)) any {
		v, ok := list.check(n, fail).([]Target)
		if !ok {
			return nil
		}
		if len(v) > most {
			fail(n, fmt.Sprintf("has %d targets: write at most %d", len(v), most))
			return nil
		}
		return v
	}}
}

// parseTarget reads a target of one family.
func parseTarget(s string, family func(netip.Addr) bool) (Target, error) {
	t := Target{Text: s, Scheme: GatewayTarget}
	where, expect, _ := strings.Cut(s, " ")
	if where != "gateway" {
		u, err := t.parseURL(where)
		if err != nil {
			return t, err
		}
		if err := t.setHost(u, family); err != nil {
			return t, err
		}
		if err := t.setScheme(u); err != nil {
			return t, err
		}
	}
	return t, t.setExpectation(expect)
}

// parseURL reads what stands before the first blank of a target.
func (t *Target) parseURL(where string) (*url.URL, error) {
	u, err := url.Parse(where)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, badText(t.Text, `a target: write "icmp://HOST", "tcp://HOST:PORT", "dns://SERVER/NAME", "http://HOST/PATH", "https://HOST/PATH" or "gateway"`)
	case strings.HasSuffix(u.Host, ":"):
		return nil, fmt.Errorf("%s has no port after its colon: write one from 1 to 65535", quote(t.Text))
	}
	if _, ok := parsePort(u.Port()); u.Port() != "" && !ok {
		return nil, fmt.Errorf("%s has no valid port: write one from 1 to 65535", quote(t.Text))
	}
	return u, nil
}

// setHost takes over whom to probe.
func (t *Target) setHost(u *url.URL, family func(netip.Addr) bool) error {
	t.Host = u.Hostname()
	a, err := netip.ParseAddr(t.Host)
	switch {
	case err != nil && !isDomain(t.Host):
		return fmt.Errorf("%s is no host: write an address or a domain", quote(t.Host))
	case err != nil:
		return nil
	case !family(a) && a.Is6():
		return fmt.Errorf("%s is an IPv6 address: write it in targets6", quote(t.Host))
	case !family(a):
		return fmt.Errorf("%s is an IPv4 address: write it in targets", quote(t.Host))
	}
	t.Addr, err = parseAddr(t.Host)
	return err
}

// setScheme takes over how to probe.
func (t *Target) setScheme(u *url.URL) error {
	way, ok := schemes[u.Scheme]
	if !ok {
		return fmt.Errorf("%s is an unknown way to probe: write icmp, tcp, dns, http or https", quote(u.Scheme))
	}
	t.Scheme, t.Port = way.scheme, way.port
	if p, ok := parsePort(u.Port()); ok {
		t.Port = p
	}
	switch t.Scheme {
	case ICMP:
		if u.Port() != "" || u.Path != "" || u.RawQuery != "" {
			return fmt.Errorf(`%s has more than a host: write "icmp://HOST"`, quote(t.Text))
		}
	case TCP:
		if u.Port() == "" || u.Path != "" || u.RawQuery != "" {
			return fmt.Errorf(`%s is not a host and a port: write "tcp://HOST:PORT"`, quote(t.Text))
		}
	case DNS:
		t.Name = strings.TrimPrefix(u.Path, "/")
		if !isDomain(t.Name) || u.RawQuery != "" {
			return fmt.Errorf(`%s does not say which name to ask for: write "dns://SERVER/NAME"`, quote(t.Text))
		}
	case HTTP, HTTPS:
		if u.Path == "" {
			return fmt.Errorf("%s has no path: write %s for the first page", quote(t.Text), quote(u.Scheme+"://"+u.Host+"/"))
		}
		t.Path = u.RequestURI()
	}
	return nil
}

// setExpectation reads what stands behind the first blank of a target.
func (t *Target) setExpectation(s string) error {
	const most = 256
	if s = strings.TrimLeft(s, " "); s == "" {
		return nil
	}
	if t.Scheme != HTTP && t.Scheme != HTTPS {
		return fmt.Errorf("%s has something behind the target: only http and https can expect a status or a text", quote(t.Text))
	}
	if rest, ok := strings.CutPrefix(s, "status="); ok {
		word, rest, _ := strings.Cut(rest, " ")
		status, ok := parsePort(word)
		switch {
		case t.Status != 0:
			return errors.New("status= stands there twice: remove one")
		case !ok || status < 200 || status > 599:
			return fmt.Errorf("%s is no status to expect: write one from 200 to 599, such as status=204", quote("status="+word))
		}
		t.Status = int(status)
		return t.setExpectation(rest)
	}
	body, ok := strings.CutPrefix(s, "text=")
	switch {
	case !ok:
		return fmt.Errorf(`%s is no expectation: write status=NUMBER or text=TEXT behind the target, as in "http://HOST/PATH status=204"`, quote(s))
	case body == "":
		return errors.New("text= expects nothing: write a text behind it, or remove it")
	case len(body) > most:
		return fmt.Errorf("the text to expect has %d bytes: write at most %d", len(body), most)
	}
	t.Body = body
	return nil
}
