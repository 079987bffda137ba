package config

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTargets(t *testing.T) {
	t.Parallel()
	a4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		text string
		want Target
	}{
		{"icmp://192.0.2.1", Target{Scheme: ICMP, Addr: a4, Host: "192.0.2.1"}},
		{"icmp://[2001:db8::1]", Target{Scheme: ICMP, Addr: a6, Host: "2001:db8::1"}},
		{"icmp://example.org", Target{Scheme: ICMP, Host: "example.org"}},
		{"tcp://example.org:443", Target{Scheme: TCP, Host: "example.org", Port: 443}},
		{"tcp://[2001:db8::1]:65535", Target{Scheme: TCP, Addr: a6, Host: "2001:db8::1", Port: 65535}},
		{"dns://192.0.2.1/example.org", Target{Scheme: DNS, Addr: a4, Host: "192.0.2.1", Port: 53, Name: "example.org"}},
		{"dns://[2001:db8::1]:5353/a.example.org", Target{Scheme: DNS, Addr: a6, Host: "2001:db8::1", Port: 5353, Name: "a.example.org"}},
		{"http://example.org/", Target{Scheme: HTTP, Host: "example.org", Port: 80, Path: "/"}},
		{"https://192.0.2.1/", Target{Scheme: HTTPS, Addr: a4, Host: "192.0.2.1", Port: 443, Path: "/"}},
		{"http://example.org:8080/generate_204 status=204", Target{Scheme: HTTP, Host: "example.org", Port: 8080, Path: "/generate_204", Status: 204}},
		{"https://example.org/ok?a=b%20c text=it is  status=1 ", Target{Scheme: HTTPS, Host: "example.org", Port: 443, Path: "/ok?a=b%20c", Body: "it is  status=1 "}},
		{"http://example.org/ok  status=302  text=<b>", Target{Scheme: HTTP, Host: "example.org", Port: 80, Path: "/ok", Status: 302, Body: "<b>"}},
		{"http://example.org/ status=200 ", Target{Scheme: HTTP, Host: "example.org", Port: 80, Path: "/", Status: 200}},
		{"gateway", Target{Scheme: GatewayTarget}},
	} {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			family := netip.Addr.Is4
			if tt.want.Addr.Is6() {
				family = netip.Addr.Is6
			}
			got, err := parseTarget(tt.text, family)
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Text = tt.text
			if diff := cmp.Diff(tt.want, got, netipEqual...); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
