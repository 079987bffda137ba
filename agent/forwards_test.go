package agent

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"multiroute/conntrack"
)

const someForwards = twoUplinks + `
[[port_forward]]
name = "web"
protocol = "tcp"
port = 80
to = "192.168.0.5:8080"

[[port_forward]]
name = "game"
protocol = "udp"
port = "8000-8010"
to = "192.168.0.5:9000-9010"
`

// led is a connection that a port forward led to a server.
func led(proto uint8, src, dst string, port uint16, to string, mark uint32) conntrack.Entry {
	server := netip.MustParseAddrPort(to)
	e := redirected(src, dst, server.Addr().String(), src)
	e.Proto, e.Mark, e.Orig.DstPort, e.Reply.SrcPort = proto, mark, port, server.Port()
	return e
}

// TestEndForwards: a reload ends what the forwards that it changes made, and
// nothing else.
func TestEndForwards(t *testing.T) {
	t.Parallel()
	all := map[string]conntrack.Entry{
		"web":           led(6, "9.9.9.9", "192.0.2.9", 80, "192.168.0.5:8080", markA),
		"web by b":      led(6, "9.9.9.9", "198.51.100.9", 80, "192.168.0.5:8080", markB|7),
		"web inside":    led(6, "192.168.0.6", "192.0.2.9", 80, "192.168.0.5:8080", 0),
		"game":          led(17, "9.9.9.9", "192.0.2.9", 8001, "192.168.0.5:9001", markA),
		"game, last":    led(17, "9.9.9.9", "192.0.2.9", 8010, "192.168.0.5:9010", markA),
		"another's":     led(6, "9.9.9.9", "192.0.2.9", 80, "192.168.0.7:8080", markA),
		"another's too": led(6, "9.9.9.9", "192.0.2.9", 81, "192.168.0.5:8080", markA),
	}
	web, game := []string{"web", "web by b", "web inside"}, []string{"game", "game, last"}
	for _, c := range []struct {
		name     string
		old, new string
		ended    []string
	}{
		{"nothing", "", "", nil},
		{"another name", `"web"`, `"www"`, nil},
		{"another port", "port = 80\n", "port = 81\n", web},
		{"another server", "192.168.0.5:8080", "192.168.0.9:8080", web},
		{"another port of the server", "192.168.0.5:8080", "192.168.0.5:8081", web},
		{"another protocol", `"tcp"`, `"udp"`, web},
		{"not for clients", `"web"`, "\"web\"\nhairpin = false", web[2:]},
		{"one uplink only", `"web"`, "\"web\"\nuplinks = [\"a\"]", web[1:2]},
		{"others' only", `"web"`, "\"web\"\nsources = [\"9.9.0.0/16\"]", web[2:]},
		{"nobody's", `"web"`, "\"web\"\nsources = [\"9.9.0.0/24\"]", web},
		{"a shorter range", "8000-8010\"\nto = \"192.168.0.5:9000-9010", "8000-8009\"\nto = \"192.168.0.5:9000-9009", game[1:]},
		{"a range that leads elsewhere", "9000-9010", "9001-9011", game},
		{"a wider range", "8000-8010\"\nto = \"192.168.0.5:9000-9010", "8000-8020\"\nto = \"192.168.0.5:9000-9020", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := started(t, someForwards)
			for _, e := range all {
				r.k.entries = append(r.k.entries, e)
			}
			r.k.inside = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")}
			r.write(replaceOnce(t, someForwards, c.old, c.new))
			if _, err := r.reload(0); err != nil {
				t.Fatal(err)
			}
			for name, e := range all {
				if ended := slices.Contains(r.k.ended, e); ended != slices.Contains(c.ended, name) {
					t.Errorf("%s: ended %v", name, ended)
				}
			}
			before := len(r.k.calls)
			if err := r.pass(r.now); err != nil {
				t.Fatal(err)
			}
			for _, call := range r.k.calls[before:] {
				if len(call) > 4 && call[:4] == "list" {
					t.Error("the list is read again without a reload")
				}
			}
		})
	}
}

// TestEndForwardsFails: what could not be ended is ended later.
func TestEndForwardsFails(t *testing.T) {
	t.Parallel()
	r := started(t, someForwards)
	e := led(6, "9.9.9.9", "192.0.2.9", 80, "192.168.0.5:8080", markA)
	r.k.entries = []conntrack.Entry{e}
	r.write(replaceOnce(t, someForwards, "port = 80\n", "port = 81\n"))
	r.k.failWith = func(call string) bool { return call == "delete 1" }
	r.accept(r.load())
	if err := r.pass(r.now); !errors.Is(err, errKernel) {
		t.Fatalf("%v", err)
	}
	r.k.failWith = nil
	if err := r.pass(r.now); err != nil || !slices.Contains(r.k.ended, e) {
		t.Errorf("%v, ended %v", err, r.k.ended)
	}
}

func replaceOnce(t *testing.T, text, old, new string) string {
	t.Helper()
	if old != "" && strings.Count(text, old) != 1 {
		t.Fatalf("%q is %d times in the text", old, strings.Count(text, old))
	}
	return strings.Replace(text, old, new, 1)
}

// TestAdoptAround: what goes from client to server by a public address is not
// bound to its uplink, whatever was lost.
func TestAdoptAround(t *testing.T) {
	t.Parallel()
	r := started(t, someForwards)
	r.k.inside = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")}
	outside := led(6, "9.9.9.9", "192.0.2.9", 80, "192.168.0.5:8080", 0)
	r.k.entries = []conntrack.Entry{led(6, "192.168.0.6", "192.0.2.9", 80, "192.168.0.5:8080", 0), outside}
	r.fresh = true
	if err := r.pass(r.now); err != nil {
		t.Fatal(err)
	}
	if len(r.k.bound) != 1 || r.k.bound[0].Entry != outside || len(r.k.ended) > 0 {
		t.Errorf("bound %v, ended %v", r.k.bound, r.k.ended)
	}
}
