package plan

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"multiroute/nat"
	"multiroute/routes"
)

var update = flag.Bool("update", false, "write testdata/*/plan.golden anew")

// TestGolden compares the whole plan of each situation in testdata with what
// was read and found right before. Each folder holds a configuration, what the
// kernel says (see parseFacts), and the plan.
func TestGolden(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("testdata/*/config.toml")
	if err != nil || len(dirs) < 20 {
		t.Fatalf("only %d situations found: %v", len(dirs), err)
	}
	for _, path := range dirs {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			p := makePlan(t, readFile(t, path), readFile(t, filepath.Join(dir, "facts")))
			golden := filepath.Join(dir, "plan.golden")
			got := describe(p)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(readFile(t, golden), got); diff != "" {
				t.Errorf("%s (-want +got; if that is right: go test ./agent/plan -update):\n%s", golden, diff)
			}
		})
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// describe prints a plan for people: everything that Make decided.
func describe(p Plan) string {
	var b strings.Builder
	for _, w := range p.Warnings {
		fmt.Fprintln(&b, "warning:", w)
	}
	if len(p.DNS) > 0 {
		fmt.Fprintln(&b, "DNS servers:", p.DNS)
	}
	for _, l := range p.Domains {
		fmt.Fprintln(&b, "domains:", l.Domains)
	}
	for _, u := range p.Uplinks {
		fmt.Fprintf(&b, "uplink %s: %s", u.Name, u.State)
		if u.Reason != "" {
			fmt.Fprintf(&b, " (%s)", u.Reason)
		}
		fmt.Fprintf(&b, ", id %d, mark %#x, table %d, %s\n", u.ID, u.Mark, u.Table, u.Interface)
		for i, leg := range []Leg{u.V4, u.V6} {
			fmt.Fprintf(&b, "  IPv%d: ", 4+2*i)
			switch {
			case !leg.Usable:
				fmt.Fprintf(&b, "not usable (%s), ", leg.Reason)
			case leg.Degraded:
				fmt.Fprintf(&b, "degraded (%s), ", leg.Reason)
			}
			if leg.Linked != leg.Usable {
				b.WriteString("linked, ")
			}
			fmt.Fprintf(&b, "%s, addresses %s", leg.Nexthop, leg.Addresses)
			if leg.Source.IsValid() {
				fmt.Fprintf(&b, ", source %s", leg.Source)
			}
			b.WriteString("\n")
		}
	}
	for _, q := range p.Policies {
		fmt.Fprintf(&b, "policy %s: id %d, table %d", q.Name, q.ID, q.Table)
		for _, f := range []routes.Family{routes.IPv4, routes.IPv6} {
			if c := q.Choice(f); c.Tier != NoTier {
				fmt.Fprintf(&b, ", %s tier %d %v", f.Name(), c.Tier, c.Members)
			}
		}
		b.WriteString("\n")
	}
	if len(p.Gateways) > 0 {
		fmt.Fprintln(&b, "gateways watched:", p.Gateways)
	}
	fmt.Fprintf(&b, "\n%s\n%s\n", p.Routes, nat.Compile(p.NAT))
	for _, s := range p.Sysctls {
		fmt.Fprintf(&b, "sysctl %s = %s", s.Key, s.Value)
		if s.From != "" {
			fmt.Fprintf(&b, " if it is %s", s.From)
		}
		if len(s.Implied) > 0 {
			fmt.Fprintf(&b, ", which changes %s", strings.Join(s.Implied, " "))
		}
		b.WriteString("\n")
	}
	return b.String()
}
