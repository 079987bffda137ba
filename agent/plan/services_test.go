package plan

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"multiroute/agent/sysctl"
	"multiroute/nat"
)

// TestServices asks which ports clients do not have, and which they get instead.
func TestServices(t *testing.T) {
	t.Parallel()
	const narrow = "net.ipv4.ip_local_reserved_ports leaves clients that send from a service's port only ports %s: reserve fewer, or close together, so that 4096 in a row are left"
	for _, c := range []struct {
		name     string
		first    uint16 // of those that the kernel gives away
		reserved string
		services string
		clients  string
		warns    string
	}{
		{"nothing known", 0, "", "0-32767 51820-51820", "32768-51819", ""},
		{"as the kernel begins", 32768, "", "0-32767 51820-51820", "32768-51819", ""},
		{"many given away: services stay", 1024, "", "0-32767 51820-51820", "32768-51819", ""},
		{"given away from the first on", 1, "", "0-32767 51820-51820", "32768-51819", ""},
		{"one fewer given away", 32769, "", "0-32768 51820-51820", "32769-51819", ""},
		{"dynamic ones given away", 49152, "", "0-49151 51820-51820", "51821-65535", ""},
		{"next to none given away", 65500, "", "0-49151 51820-51820", "51821-65535", ""},
		{"another WireGuard", 32768, "51821-51821", "0-32767 51820-51821", "32768-51819", ""},
		{"the widest stretch above", 32768, "40000-40009", "0-32767 40000-40009 51820-51820", "51821-65535", ""},
		{"in the middle", 32768, "33000-33000 58000-58000", "0-32767 33000-33000 51820-51820 58000-58000", "33001-51819", ""},
		{"below", 32768, "60000-65535", "0-32767 51820-51820 60000-65535", "32768-51819", ""},
		{"known ones reserved, too", 32768, "53-53 1194-8080 51820-51820", "0-32767 51820-51820", "32768-51819", ""},
		{"over the edge", 34000, "33000-35000", "0-35000 51820-51820", "35001-51819", ""},
		{"of equals the lowest", 32768, "32768-32799 38100-38199 43500-65535", "0-32799 38100-38199 43500-65535", "32800-38099", ""}, // 5,300 each
		{"just enough", 32768, "32768-61439", "0-61439", "61440-65535", ""},
		{"few", 32768, "32768-61440", "0-61440", "61441-65535", fmt.Sprintf(narrow, "61441-65535")},
		{"one", 32768, "32768-65534", "0-65534", "65535-65535", fmt.Sprintf(narrow, "65535-65535")},
		{"none", 32768, "32768-65535", "0-32767 51820-51820", "32768-51819",
			"net.ipv4.ip_local_reserved_ports reserves all ports from 32768 up, which clients get all the same: reserve fewer, so that 4096 in a row are left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			in := Input{Ports: sysctl.Ports{First: c.first}}
			for word := range strings.FieldsSeq(c.reserved) {
				var r sysctl.PortRange
				if _, err := fmt.Sscanf(word, "%d-%d", &r.Lo, &r.Hi); err != nil {
					t.Fatal(err)
				}
				in.Ports.Reserved = append(in.Ports.Reserved, r)
			}
			p := servicesPlan(t, in)
			if got := joinPorts(p.NAT.Services); got != c.services {
				t.Errorf("services are %s, wanted %s", got, c.services)
			}
			if got := joinPorts([]nat.PortRange{p.NAT.ClientPorts}); got != c.clients {
				t.Errorf("clients get %s, wanted %s", got, c.clients)
			}
			if got := strings.Join(p.Warnings, "\n"); got != c.warns {
				t.Errorf("warnings %q", got)
			}
			for _, s := range p.NAT.Services {
				if s.Lo <= p.NAT.ClientPorts.Hi && p.NAT.ClientPorts.Lo <= s.Hi {
					t.Errorf("clients may get ports of %v", s)
				}
			}
		})
	}
}

// What is not read is said; on a server without LAN it does not matter.
func TestPortsUnread(t *testing.T) {
	t.Parallel()
	in := Input{Ports: sysctl.Ports{Reserved: []sysctl.PortRange{{Lo: 60000, Hi: 60000}}}, PortsUnread: errors.New("too many")}
	p := servicesPlan(t, in)
	if len(p.Warnings) != 1 || p.Warnings[0] != "the ports of the router's own services are not all known: too many" {
		t.Errorf("warnings %q", p.Warnings)
	}
	if got := joinPorts(p.NAT.Services); got != "0-32767 51820-51820 60000-60000" {
		t.Errorf("services are %s", got)
	}
	in.Config = mustConfig(t, "[router]\nlan = []\n"+oneUplink)
	if p := servicesPlan(t, in); len(p.Warnings) > 0 || p.NAT.Services != nil {
		t.Errorf("without LAN: warnings %q, services %v", p.Warnings, p.NAT.Services)
	}
}

const oneUplink = "[uplink.dsl]\ninterface = \"eth1\"\ngateway = \"192.0.2.1\"\n"

// servicesPlan plans for one uplink and a LAN, unless in says otherwise.
func servicesPlan(t *testing.T, in Input) Plan {
	t.Helper()
	if in.Config == nil {
		in.Config = mustConfig(t, "[router]\nlan = [\"eth0\"]\n"+oneUplink)
	}
	in.IDs = Assign(IDs{}, in.Config)
	in.Facts = mustFacts(t, "link eth0 2\nlink eth1 3\naddr eth0 192.168.0.1/24\naddr eth1 192.0.2.9/24")
	return Make(in)
}

// joinPorts prints sorted ranges, as one where they overlap or touch.
func joinPorts(sorted []nat.PortRange) string {
	var all []nat.PortRange
	for _, r := range sorted {
		if n := len(all); n > 0 && int(r.Lo) <= int(all[n-1].Hi)+1 {
			all[n-1].Hi = max(all[n-1].Hi, r.Hi)
		} else {
			all = append(all, r)
		}
	}
	var words []string
	for _, r := range all {
		words = append(words, fmt.Sprintf("%d-%d", r.Lo, r.Hi))
	}
	return strings.Join(words, " ")
}
