//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestReader: independent readers, ip(8) and nft(8), find in the kernel exactly
// what "agent show" says: nothing is missing, and nothing of ours is there that
// it does not say.
func TestReader(t *testing.T) {
	needPrograms(t, "ip", "nft")
	for _, c := range []struct {
		name     string
		topology func(lab.Options) (*lab.Topology, error)
		options  lab.Options
	}{
		{"one NIC per uplink", lab.NewRouter, lab.Options{Uplinks: 3}},
		{"one NIC", lab.NewSingleNIC, lab.Options{}},
		{"one NIC for clients too", lab.NewSingleNIC, lab.Options{LANOnNIC: true}},
		{"without IPv6", lab.NewRouter, lab.Options{NoIPv6: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := deadline(t, time.Minute)
			h := newHouse(t, c.topology, c.options)
			h.foreigners()
			h.dropIn(t)
			h.start(ctx, rig.Config(h.Topology, []int{3, 1, 1}, fmt.Sprintf(`
[[port_forward]]
name = "web"
protocol = "tcp"
port = 80
to = "192.168.0.10:8080"

[[port_forward]]
name = "game"
protocol = "udp"
port = 7000
to = "192.168.0.10:7001"
uplinks = [%q]
`, h.Topology.Uplinks[0].Name)))
			h.readersAgree(t)

			// And after a change: what uplinks carry is counted.
			counting := rig.Config(h.Topology, []int{1, 1, 1}, bandwidths(h, []int{100, 50, 20}[:len(h.Uplinks)]...), "[policy.default]\nbalance = \"capacity\"\n")
			if err := h.Reconfigure(ctx, counting); err != nil {
				t.Fatal(err)
			}
			h.readersAgree(t)

			// And after another: an uplink less.
			text := rig.Config(h.Topology, []int{1, 1, 1})
			text = strings.Replace(text, fmt.Sprintf("[uplink.%s]\n", h.Topology.Uplinks[1].Name), fmt.Sprintf("[uplink.%s]\nenabled = false\n", h.Topology.Uplinks[1].Name), 1)
			if err := h.Reconfigure(ctx, text); err != nil {
				t.Fatal(err)
			}
			h.readersAgree(t)
		})
	}
}

// needPrograms skips where a program is missing; the CI must have it.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// dropIn configures what rig.Config has no words for.
func (h *house) dropIn(t *testing.T) {
	t.Helper()
	u := h.Topology.Uplinks[0]
	folder := strings.TrimSuffix(h.ConfigPath(), ".toml") + ".d"
	text := fmt.Sprintf("[router]\nrouted = [\"203.0.113.0/28\"]\n[uplink.%s]\ndns = [\"9.9.9.9\"]\ndestinations = [\"192.0.2.0/24\"]\n", u.Name)
	if u.Delegated.IsValid() {
		text += fmt.Sprintf("ipv6 = \"prefix\"\nprefix6 = %q\n", u.Delegated)
	}
	if err := os.Mkdir(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "10-more.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// foreigners puts somebody else's rules and routes beside ours.
func (h *house) foreigners() {
	h.t.Helper()
	h.run("ip", "rule", "add", "pref", "10250", "fwmark", "0x5", "lookup", "20001")
	h.run("ip", "route", "add", "192.0.2.77", "dev", "lo", "table", "20001", "proto", "static")
	h.run("nft", "add table inet theirs { chain guard { type filter hook forward priority 0; } ; }")
}

// run runs a program in the router's namespace.
func (h *house) run(program string, args ...string) string {
	h.t.Helper()
	out, errOut, code, err := h.Exec(program, args...)
	if err != nil || code != 0 {
		h.t.Fatalf("%s %q: exit %d, %v: %s", program, args, code, err, errOut)
	}
	return out
}

func (h *house) show(what string) string {
	h.t.Helper()
	out, errOut, code, err := h.Command("show", what)
	if err != nil || code != 0 {
		h.t.Fatalf("agent show %s: exit %d, %v: %s", what, code, err, errOut)
	}
	return out
}

func (h *house) readersAgree(t *testing.T) {
	t.Helper()
	shown := strings.Split(strings.TrimSpace(h.show("routes")), "\n")
	read := slices.Concat(h.ipRules(t, "-4"), h.ipRules(t, "-6"), h.ipRoutes(t, "-4"), h.ipRoutes(t, "-6"))
	slices.Sort(shown)
	slices.Sort(read)
	if diff := cmp.Diff(shown, read); diff != "" {
		t.Errorf("routing (-agent show routes +ip):\n%s", diff)
	}
	if len(read) < 8 {
		t.Errorf("only %d lines: %q", len(read), read)
	}
	if diff := cmp.Diff(shownChains(h.show("nft")), h.nftChains(t)); diff != "" {
		t.Errorf("rules (-agent show nft +nft):\n%s", diff)
	}
}

// ours is our routing protocol number, as ip(8) prints it.
const ours = "77"

// ipRules lists our policy rules in our own notation, made from ip's JSON.
func (h *house) ipRules(t *testing.T, family string) []string {
	t.Helper()
	var rules []struct {
		Priority int
		Src      string
		SrcLen   *int
		FwMark   string
		FwMask   string
		Table    string
		Action   string
		Suppress *int `json:"suppress_prefixlen"`
		Protocol string
		Dst, Iif string
		Not      json.RawMessage // "null" where the rule is turned round
		Goto     int
	}
	decode(t, h.run("ip", "-j", family, "rule"), &rules)
	var lines []string
	for _, r := range rules {
		if r.Protocol != ours {
			continue
		}
		line := fmt.Sprintf("ip %s rule pref %d", family, r.Priority)
		if r.Src != "all" {
			line += " from " + withLength(r.Src, r.SrcLen)
		}
		switch {
		case r.Not != nil && r.Iif == "lo" && r.Dst == "":
			line += " not iif lo"
		case r.Dst != "" || r.Iif != "" || r.Not != nil:
			line += " with something that we never ask for"
		}
		if r.FwMark != "" {
			line += " fwmark " + r.FwMark + "/" + r.FwMask
		}
		switch {
		case r.Action != "":
			line += " " + r.Action
		case r.Goto != 0:
			line += fmt.Sprintf(" goto %d", r.Goto)
		default:
			line += " lookup " + r.Table
		}
		if r.Suppress != nil {
			line += fmt.Sprintf(" suppress_prefixlength %d", *r.Suppress)
		}
		lines = append(lines, line+" proto "+ours)
	}
	return lines
}

func withLength(text string, length *int) string {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return text
	case length != nil:
		return fmt.Sprintf("%s/%d", text, *length)
	}
	return fmt.Sprintf("%s/%d", text, a.BitLen())
}

type nexthopJSON struct {
	Gateway, Dev string
	Weight       int
	Flags        []string
}

func (n nexthopJSON) String() string {
	text := "dev " + n.Dev
	if n.Gateway != "" {
		text = "via " + n.Gateway + " " + text
	}
	if slices.Contains(n.Flags, "onlink") {
		text += " onlink"
	}
	return text
}

// ipRoutes is ipRules for routes.
func (h *house) ipRoutes(t *testing.T, family string) []string {
	t.Helper()
	var routes []struct {
		nexthopJSON
		Type, Dst, Table, PrefSrc, Protocol string
		Metric                              uint32
		Nexthops                            []nexthopJSON
	}
	decode(t, h.run("ip", "-j", family, "route", "show", "table", "all"), &routes)
	var lines []string
	for _, r := range routes {
		if r.Protocol != ours {
			continue
		}
		line := "ip " + family + " route"
		if r.Type != "" {
			line += " " + r.Type
		}
		line += " " + withLength(r.Dst, nil)
		if r.Type == "" && len(r.Nexthops) == 0 {
			line += " " + r.nexthopJSON.String()
		}
		line += " table " + r.Table
		if r.Metric != 0 {
			line += fmt.Sprintf(" metric %d", r.Metric)
		}
		if r.PrefSrc != "" {
			line += " src " + r.PrefSrc
		}
		line += " proto " + ours
		for _, n := range r.Nexthops {
			line += fmt.Sprintf(" nexthop %s weight %d", n, n.Weight)
		}
		lines = append(lines, line)
	}
	return lines
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if strings.TrimSpace(text) == "" {
		return
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
}

// shownChains is "agent show nft" as chain -> lines in a common notation: no
// comments, numbers in decimal, elements of sets sorted. Named sets, without what
// is in them, and counters are there as "set NAME" and "counter NAME".
func shownChains(text string) map[string][]string {
	chains := map[string][]string{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "chain "):
			name = strings.TrimSuffix(strings.TrimPrefix(line, "chain "), " {")
			chains[name] = []string{}
		case strings.HasPrefix(line, "counter ") && strings.HasSuffix(line, " {"), strings.HasPrefix(line, "set ") && strings.HasSuffix(line, " {"):
			name = strings.TrimSuffix(line, " {")
			chains[name] = []string{}
		case strings.HasPrefix(line, "table "), strings.HasPrefix(line, "packets "), line == "}", line == "":
		default:
			chains[name] = append(chains[name], common(line))
		}
	}
	return chains
}

var (
	commentText = regexp.MustCompile(` comment "[^"]*"`)
	hexNumber   = regexp.MustCompile(`\b0x[0-9a-f]+\b`)
	setBits     = regexp.MustCompile(`& (\d+) \| (\d+)`)
	oneAddress  = regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+)/32\b|([0-9a-f:]+:[0-9a-f:]*)/128\b`)
	timeoutText = regexp.MustCompile(`\btimeout [0-9a-z]+`)
	setText     = regexp.MustCompile(`\{ [^}]* \}`)
)

func common(line string) string {
	line = commentText.ReplaceAllString(line, "")
	line = strings.ReplaceAll(line, `"`, "")
	line = hexNumber.ReplaceAllStringFunc(line, func(s string) string {
		n, _ := strconv.ParseUint(s[2:], 16, 64)
		return strconv.FormatUint(n, 10)
	})
	line = setBits.ReplaceAllStringFunc(line, func(s string) string { // x & 1 | 3 is x & 0 | 3
		match := setBits.FindStringSubmatch(s)
		keep, _ := strconv.ParseUint(match[1], 10, 32)
		set, _ := strconv.ParseUint(match[2], 10, 32)
		return fmt.Sprintf("& %d | %d", keep&^set, set)
	})
	line = strings.Replace(line, "flags dynamic,", "flags ", 1) // nft 1.0.6 has no word for it in JSON
	line = oneAddress.ReplaceAllString(line, "$1$2")
	line = timeoutText.ReplaceAllStringFunc(line, func(s string) string {
		d, err := time.ParseDuration(strings.TrimPrefix(s, "timeout "))
		if err != nil {
			return s
		}
		return fmt.Sprintf("timeout %.0fs", d.Seconds())
	})
	if strings.Contains(line, "ip daddr") || strings.HasSuffix(line, "reject with tcp reset") || strings.Contains(line, "ip6 daddr") { // implied, so nft leaves it out, before a reset even where it is not
		line = strings.TrimPrefix(strings.TrimPrefix(line, "meta nfproto ipv4 "), "meta nfproto ipv6 ")
	}
	return setText.ReplaceAllStringFunc(line, func(s string) string {
		elements := strings.Split(strings.TrimSuffix(strings.TrimPrefix(s, "{ "), " }"), ", ")
		slices.Sort(elements)
		return "{ " + strings.Join(elements, ", ") + " }"
	})
}

// nftChains is the table in the kernel in the same notation, made from nft's
// JSON (libnftables-json(5)).
func (h *house) nftChains(t *testing.T) map[string][]string {
	t.Helper()
	var list struct {
		NFTables []struct {
			Chain *struct {
				Name, Type, Hook, Policy string
				Prio                     int
			}
			Rule *struct {
				Chain string
				Expr  []map[string]any
			}
			Set          *setJSON
			Map, Counter *struct{ Name string }
		} `json:"nftables"`
	}
	decode(t, h.run("nft", "-j", "list", "table", "inet", "multiroute"), &list)
	chains := map[string][]string{}
	for _, o := range list.NFTables {
		switch {
		case o.Chain != nil:
			chains[o.Chain.Name] = []string{}
			if o.Chain.Hook != "" {
				chains[o.Chain.Name] = []string{fmt.Sprintf("type %s hook %s priority %d; policy %s;", o.Chain.Type, o.Chain.Hook, o.Chain.Prio, o.Chain.Policy)}
			}
		case o.Rule != nil:
			var texts []string
			for _, x := range o.Rule.Expr {
				texts = append(texts, statement(x))
			}
			chains[o.Rule.Chain] = append(chains[o.Rule.Chain], common(strings.Join(texts, " ")))
		case o.Counter != nil:
			chains["counter "+o.Counter.Name] = []string{}
		case o.Set != nil:
			chains["set "+o.Set.Name] = o.Set.lines()
		case o.Map != nil:
			t.Errorf("a named map in our table: %+v", o)
		}
	}
	return chains
}

// setJSON is a named set.
type setJSON struct {
	Name  string
	Type  any // a name, or several
	Size  int
	Flags []string
	Elem  []any
}

func (s setJSON) lines() []string {
	slices.Sort(s.Flags)
	kind := expression(s.Type)
	if all, ok := s.Type.([]any); ok {
		kind = expressions(all, " . ")
	}
	return []string{"type " + kind, fmt.Sprintf("size %d", s.Size), "flags " + strings.Join(s.Flags, ",")}
}

// statement writes one statement of nft's JSON as text.
func statement(x map[string]any) string {
	for kind, v := range x {
		m, _ := v.(map[string]any)
		switch kind {
		case "match":
			right := expression(m["right"])
			if m["op"] == "!=" {
				right = "!= " + right
			}
			if list, ok := m["right"].([]any); ok { // bits
				right = expressions(list, ",")
			}
			if m["op"] == "!" { // none of them
				right = "! " + right
			}
			if a, length, ok := strings.Cut(right, "/"); ok && strings.HasSuffix(expression(m["left"]), " mark") { // nft takes a mask for a prefix
				n, _ := strconv.Atoi(length)
				right = fmt.Sprintf("& %d %s", uint32(0xffffffff)<<(32-n), a)
			}
			return expression(m["left"]) + " " + right
		case "vmap":
			return expression(m["key"]) + " vmap " + expression(m["data"])
		case "mangle":
			return expression(m["key"]) + " set " + expression(m["value"])
		case "set": // packets add to a set, or delete from it
			key, timeout := m["elem"], ""
			if e, ok := key.(map[string]any)["elem"].(map[string]any); ok {
				key, timeout = e["val"], fmt.Sprintf(" timeout %vs", e["timeout"])
			}
			return fmt.Sprintf("%s %s { %s%s }", m["op"], m["set"], expression(key), timeout)
		case "goto", "jump":
			return kind + " " + expression(m["target"])
		case "counter":
			return fmt.Sprintf("counter name %v", v)
		case "reject":
			return "reject with " + expression(m["type"])
		case "masquerade":
			if m != nil {
				return "masquerade to :" + expression(m["port"])
			}
		case "snat", "dnat":
			to := expression(m["addr"])
			if m["port"] != nil {
				if strings.Contains(to, ":") {
					to = "[" + to + "]"
				}
				to += ":" + expression(m["port"])
			}
			if m["type_flags"] == "prefix" {
				to = "prefix to " + to
			} else {
				to = "to " + to
			}
			return fmt.Sprintf("%s %s %s", kind, m["family"], to)
		}
		if v == nil { // accept, drop, return, masquerade
			return kind
		}
	}
	return fmt.Sprint(x)
}

// expression writes one expression of nft's JSON as text.
func expression(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any: // an element of a map
		return expressions(v, " : ")
	case map[string]any:
		for kind, x := range v {
			m, _ := x.(map[string]any)
			list, _ := x.([]any)
			switch kind {
			case "ct":
				return "ct " + expression(m["key"])
			case "meta":
				key := expression(m["key"])
				if key == "iifname" || key == "oifname" {
					return key
				}
				return "meta " + key
			case "payload":
				return expression(m["protocol"]) + " " + expression(m["field"])
			case "rt":
				return strings.TrimSpace("rt "+expression(m["family"])) + " " + expression(m["key"])
			case "fib":
				flags := m["flags"]
				if all, ok := flags.([]any); ok {
					flags = expressions(all, " . ")
				}
				return "fib " + expression(flags) + " " + expression(m["result"])
			case "&", "|":
				return expressions(list, " "+kind+" ")
			case "concat":
				return expressions(list, " . ")
			case "set":
				if list == nil {
					return expression(x)
				}
				return "{ " + expressions(list, ", ") + " }"
			case "range":
				return expressions(list, "-")
			case "prefix":
				return expression(m["addr"]) + "/" + expression(m["len"])
			case "map":
				return expression(m["key"]) + " map " + expression(m["data"])
			}
		}
		return statement(v) // a verdict
	}
	return fmt.Sprint(v)
}

func expressions(all []any, between string) string {
	var texts []string
	for _, x := range all {
		texts = append(texts, expression(x))
	}
	return strings.Join(texts, between)
}
