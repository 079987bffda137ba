package nat

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// others reads what other programs have, inside the namespace.
func (k *kernel) others() *Foreign {
	k.t.Helper()
	var f *Foreign
	if err := k.ns.Do(func() (err error) { f, err = k.table.Foreign(); return err }); err != nil {
		k.t.Fatal(err)
	}
	return f
}

// TestForeignUpTo: of long rulesets nothing is read.
func TestForeignUpTo(t *testing.T) {
	needNFT(t)
	k := newKernel(t)
	k.nft(`table ip theirs { chain a { jump b; accept; }; chain b { drop; accept; return; }; }`)
	for most, want := range map[uint32]bool{0: false, 5: false, 6: true, 100: true} { // b is used by its rules and by a's jump
		var f *Foreign
		if err := k.ns.Do(func() (err error) { f, err = k.table.ForeignUpTo(most); return err }); err != nil || (f != nil) != want {
			t.Errorf("up to %d: %v, %v", most, f, err)
		}
	}
}

func (f Fate) text() string {
	s := ""
	if f.Accepted {
		s = "accepted"
	}
	if f.Dropped {
		s += " dropped by " + f.By
		if f.Policy {
			s += "'s policy"
		}
	}
	return strings.TrimSpace(s)
}

// TestForeignWalk: what other programs' rulesets, as nft(8) and iptables write
// them, do to a client's packet to an uplink, and to the answer.
func TestForeignWalk(t *testing.T) {
	needNFT(t)
	for _, test := range []struct {
		name, nft   string
		out, answer string
	}{
		{"policy drop", `table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }`,
			"dropped by FORWARD's policy", "dropped by FORWARD's policy"},
		{"stateful, by name", `table inet filter { chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; iifname "lan" oifname "wan" accept; } }`,
			"accepted", "accepted"},
		{"only the answers", `table inet filter { chain forward { type filter hook forward priority 0; policy drop; ct state { established, related } accept; iifname "docker0" accept; } }`,
			"dropped by forward's policy", "accepted"},
		{"verdict maps", `table inet filter {
			chain out { iifname "lan" accept; }
			chain forward { type filter hook forward priority 0; policy drop; ct state vmap { established : accept, related : accept, invalid : drop }; oifname vmap { "wan" : jump out, "lo" : drop }; } }`,
			"accepted", "accepted"},
		{"by address", `table inet filter { chain forward { type filter hook forward priority 0; policy drop; ip saddr 192.168.0.0/24 accept; } }`,
			"accepted dropped by forward's policy", "accepted dropped by forward's policy"},
		{"reject at the end of a chain", `table inet firewalld {
			chain zones { iifname "other" accept; return; }
			chain forward { type filter hook forward priority 10; policy accept; ct state { established, related } accept; ct status dnat accept; jump zones; reject with icmpx admin-prohibited; } }`,
			"dropped by forward", "accepted"},
		{"goto and return", `table inet a {
			chain x { iifname "lan" return; drop; }
			chain forward { type filter hook forward priority 0; policy accept; goto x; drop; } }`,
			"accepted", "dropped by x"},
		{"wildcards", `table inet a { chain forward { type filter hook forward priority 0; policy accept; iifname "la*" drop; iifname != "w*" drop; } }`,
			"dropped by forward", "accepted"},
		{"interval of names", `table inet a { set s { type ifname; flags interval; elements = { "la*" }; }
			chain forward { type filter hook forward priority 0; policy accept; iifname @s drop; } }`,
			"accepted dropped by forward", "accepted dropped by forward"},
		{"another family", `table inet a { chain forward { type filter hook forward priority 0; policy drop; meta nfproto ipv6 accept; } }`,
			"dropped by forward's policy", "dropped by forward's policy"},
		{"limits", `table inet a { chain forward { type filter hook forward priority 0; policy drop; limit rate 5/second accept; } }`,
			"accepted dropped by forward's policy", "accepted dropped by forward's policy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKernel(t)
			k.write(Compile(separate()))
			k.nft(strings.ReplaceAll(test.nft, "} }", "}\n}"))
			f := k.others()
			var out, answer []string
			for i := range f.Chains {
				if c := &f.Chains[i]; c.Hook == Forward {
					v6 := c.Family == unix.NFPROTO_IPV6
					out = append(out, f.Walk(c, Sight{In: "lan", Out: "wan", IPv6: v6}).text())
					answer = append(answer, f.Walk(c, Sight{In: "wan", Out: "lan", IPv6: v6, Reply: true}).text())
				}
			}
			if len(out) != 1 || out[0] != test.out || answer[0] != test.answer {
				t.Errorf("out %q, wanted %q; answer %q, wanted %q", out, test.out, answer, test.answer)
			}
		})
	}
}

// TestForeignIPTables: the rules that Docker, ufw and mwan3 write with
// iptables' nftables variant.
func TestForeignIPTables(t *testing.T) {
	if _, err := exec.LookPath("iptables-nft"); err != nil {
		t.Skip(err)
	}
	k := newKernel(t)
	iptables := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			cmd := exec.Command("iptables-nft", strings.Fields(line)...)
			var text strings.Builder
			cmd.Stdout, cmd.Stderr = &text, &text
			err := k.ns.Start(cmd)
			if err == nil {
				err = cmd.Wait()
			}
			if err != nil {
				t.Fatal(line, err, text.String())
			}
		}
	}
	fate := func(p Sight) string {
		t.Helper()
		f := k.others()
		return f.Walk(f.Chain(unix.NFPROTO_IPV4, "filter", "FORWARD"), p).text()
	}
	out, answer := Sight{In: "lan", Out: "wan"}, Sight{In: "wan", Out: "lan", Reply: true}
	iptables("-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-P FORWARD DROP", "-A FORWARD -j DOCKER-USER", "-N DOCKER", "-A FORWARD -o docker0 -j DOCKER",
		"-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT")
	if a, b := fate(out), fate(answer); a != "dropped by FORWARD's policy" || b != a {
		t.Errorf("Docker: %q, %q", a, b)
	}
	iptables("-I DOCKER-USER -i lan -o wan -j ACCEPT", "-I DOCKER-USER -i wan -o lan -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	if a, b := fate(out), fate(answer); a != "accepted" || b != a {
		t.Errorf("Docker, let through: %q, %q", a, b)
	}
	if a := fate(Sight{In: "wan", Out: "lan"}); a != "dropped by FORWARD's policy" {
		t.Errorf("what comes from outside: %q", a)
	}
	iptables("-I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT")
	if a, b := fate(Sight{In: "wan", Out: "lan", Forwarded: true}), fate(Sight{In: "wan", Out: "lan"}); a != "accepted" || b != "dropped by FORWARD's policy" {
		t.Errorf("port forwards let through: %q, and without one: %q", a, b)
	}
	iptables("-t mangle -A FORWARD -i lan -j MARK --set-xmark 0x3f00/0x3f00", "-t mangle -A FORWARD -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000",
		"-t mangle -A FORWARD -i other -j MARK --set-mark 1", "-t nat -A POSTROUTING -o wan -j MASQUERADE", "-t nat -A POSTROUTING -o wan -s 10.0.0.1 -j SNAT --to-source 192.0.2.1",
		"-t raw -A PREROUTING -i lan -j CT --notrack")
	f := k.others()
	for _, c := range []struct{ table, chain, want string }{
		{"mangle", "FORWARD", fmt.Sprint([]Effect{{EffectMark, 0x3f00}, {EffectConnMark, 0xff0000}})},
		{"nat", "POSTROUTING", fmt.Sprint([]Effect{{Kind: EffectMasquerade}, {Kind: EffectSNAT}})},
		{"raw", "PREROUTING", fmt.Sprint([]Effect{{Kind: EffectNotrack}})},
	} {
		if got := fmt.Sprint(f.Walk(f.Chain(unix.NFPROTO_IPV4, c.table, c.chain), out).Effects); got != c.want {
			t.Errorf("%s %s: %s, wanted %s", c.table, c.chain, got, c.want)
		}
	}
}

// TestForeignEffects: the same in nft's words; ours do not count.
func TestForeignEffects(t *testing.T) {
	needNFT(t)
	k := newKernel(t)
	k.write(Compile(separate()))
	k.nft(`table inet a {
		chain p { type filter hook prerouting priority mangle; meta mark set 1; meta mark set meta mark and 0x00ffffff or 0x01000000; ct mark set meta mark and 0xff00ffff; iifname "other" notrack; }
		chain q { type nat hook postrouting priority srcnat; oifname "wan" snat ip to 192.0.2.1; }
	}`)
	f := k.others()
	if len(f.Chains) != 2 {
		t.Fatalf("%d chains", len(f.Chains))
	}
	p := f.Chain(unix.NFPROTO_INET, "a", "p")
	if p == nil || p.Hook != Prerouting || p.Priority != -150 || p.Type != Filter {
		t.Fatalf("%+v", p)
	}
	want := fmt.Sprint([]Effect{{EffectMark, 0xffffffff}, {EffectMark, 0xff000000}, {EffectConnMark, 0xffffffff}})
	if got := fmt.Sprint(f.Walk(p, Sight{In: "lan"}).Effects); got != want {
		t.Errorf("%s, wanted %s", got, want)
	}
	if got := fmt.Sprint(f.Walk(f.Chain(unix.NFPROTO_INET, "a", "q"), Sight{In: "lan", Out: "wan"}).Effects); got != fmt.Sprint([]Effect{{Kind: EffectSNAT}}) {
		t.Error(got)
	}
}

// TestProbe: this kernel has everything; what a kernel refuses is named.
func TestProbe(t *testing.T) {
	k := newKernel(t)
	var missing []Feature
	if err := k.ns.Do(func() (err error) { missing, err = k.table.Probe(); return err }); err != nil || len(missing) > 0 {
		t.Errorf("missing: %v, %v", missing, err)
	}
	refused := probe{Feature{"this", "CONFIG_THIS"}, Ruleset{Chains: []Chain{{Name: "probe", Type: Filter, Hook: Forward, Rules: []Rule{{Masquerade{}}}}}}}
	if err := k.ns.Do(func() (err error) { missing, err = k.table.probe(append([]probe{refused}, probes()...)); return err }); err != nil || len(missing) != 1 || missing[0] != refused.Feature {
		t.Errorf("missing: %v, %v", missing, err)
	}
	if s := k.read(); s.Exists {
		t.Error("the table is left")
	}
}
