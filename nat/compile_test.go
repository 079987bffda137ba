package nat

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/*.nft anew")

var hashes = regexp.MustCompile("-[0-9a-f]{16}")

// TestGolden: the whole table of each situation, as a person reads it.
func TestGolden(t *testing.T) {
	for _, s := range situations() {
		t.Run(s.name, func(t *testing.T) {
			got := Compile(s.spec).String()
			path := filepath.Join("testdata", s.name+".nft")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // names come from bytes in the CPU's order
				got, want = hashes.ReplaceAllString(got, "-"), hashes.ReplaceAll(want, []byte("-"))
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got; if it is meant: go test ./nat -update):\n%s", path, diff)
			}
		})
	}
}

// TestGoldenFiles: no file without its situation.
func TestGoldenFiles(t *testing.T) {
	known := map[string]bool{}
	for _, s := range situations() {
		known[s.name+".nft"] = true
	}
	files, err := filepath.Glob("testdata/*.nft")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[filepath.Base(f)] {
			t.Errorf("%s belongs to no situation", f)
		}
	}
}

// TestCompilePure: equal specs give equal rules, the spec is not written to,
// and the rules are sound: chains exist that verdicts lead to, each once, and
// no map has a key twice or no key at all (the kernel refuses the first,
// nft(8) the second).
func TestCompilePure(t *testing.T) {
	for _, s := range append(situations(), situation{"many", many(64, 2000)}) {
		t.Run(s.name, func(t *testing.T) {
			a, b := Compile(s.spec), Compile(s.spec)
			if !reflect.DeepEqual(a, b) {
				t.Error("compiled twice, two results")
			}
			for _, again := range situations() {
				if again.name == s.name && !reflect.DeepEqual(again.spec, s.spec) {
					t.Error("Compile wrote to its Spec")
				}
			}
			checkSound(t, a)
		})
	}
}

func checkSound(t *testing.T, r Ruleset) {
	t.Helper()
	names := map[string]bool{}
	for _, c := range r.Chains {
		if names[c.Name] {
			t.Errorf("chain %s exists twice", c.Name)
		}
		names[c.Name] = true
	}
	lead := func(v Verdict) {
		if v.Kind == Goto && !names[v.Chain] {
			t.Errorf("%s leads nowhere", v)
		}
	}
	fields := map[string]bool{} // of sets
	for _, s := range r.Sets {
		fields[s.Name+" "+fmt.Sprint(s.Fields, s.Verdicts)] = true
		if len(s.Elements) == 0 {
			t.Errorf("%s %s is empty", s.kind(), s.Name)
		}
		for _, e := range s.Elements {
			lead(e.Verdict)
		}
	}
	for _, d := range r.Dynamic {
		fields[d.Name+" "+fmt.Sprint(d.Fields, false)] = true
	}
	for _, c := range r.Chains {
		for _, rule := range c.Rules {
			keys := map[any]bool{}
			once := func(k any, text string) {
				if keys[k] {
					t.Errorf("chain %s: %s: key %s twice", c.Name, rule, text)
				}
				keys[k] = true
			}
			for _, st := range rule {
				switch st := st.(type) {
				case Verdict:
					lead(st)
				case Lookup:
					if !fields[st.Set+" "+fmt.Sprint(st.Fields, st.Map)] {
						t.Errorf("chain %s: %s: there is no such set", c.Name, rule)
					}
				case Match:
					clear(keys)
					if len(st.Values) == 0 {
						t.Errorf("chain %s: %s: compares with nothing", c.Name, rule)
					}
					for _, v := range st.Values {
						once(v.Raw, v.Text)
					}
				case Map:
					clear(keys)
					if len(st.Entries) == 0 {
						t.Errorf("chain %s: %s: empty map", c.Name, rule)
					}
					for _, e := range st.Entries {
						once(e.Value.Raw, e.Value.Text)
						lead(e.Verdict)
					}
				case DNAT:
					clear(keys)
					for _, e := range st.Entries {
						once([3]any{e.Protocol, e.Port, e.Source}, e.To.String())
					}
				}
			}
		}
	}
}

// TestCompileOdd: what facts can bring although no configuration asks for it
// must not make a table that the kernel refuses: then nothing would be in force.
func TestCompileOdd(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Spec)
	}{
		{"one gateway address for two uplinks", func(s *Spec) { s.Uplinks[1].Gateways = s.Uplinks[0].Gateways }},
		{"one gateway twice", func(s *Spec) { s.Uplinks[0].Gateways = append(s.Uplinks[0].Gateways, s.Uplinks[0].Gateways...) }},
		{"one MAC for all", func(s *Spec) {
			for i := range s.Uplinks {
				s.Uplinks[i].MACs = [][6]byte{{2}, {2}}
			}
		}},
		{"one address twice", func(s *Spec) { s.Uplinks[0].Addresses = append(s.Uplinks[0].Addresses, s.Uplinks[0].Addresses...) }},
		{"no gateways known", func(s *Spec) {
			for i := range s.Uplinks {
				s.Uplinks[i].Gateways, s.Uplinks[i].MACs, s.Uplinks[i].Addresses = nil, nil, nil
			}
		}},
		{"all marks 0", func(s *Spec) {
			for i := range s.Uplinks {
				s.Uplinks[i].Mark = 0
			}
			forwards(s)
		}},
		{"two forwards of one port", func(s *Spec) { forwards(s); s.Forwards = append(s.Forwards, s.Forwards...) }},
		{"an invalid own address", func(s *Spec) { s.Own = []netipAddr{{}} }},
		{"own address twice", func(s *Spec) { s.Own = append(s.Own, s.Own...) }},
		{"all is routed", func(s *Spec) { s.Routed = nets("0.0.0.0/0", "10.0.0.0/8", "::/0"); s.Uplinks[0].Routed6 = true }},
		{"many routed prefixes", func(s *Spec) {
			for i := range 3000 {
				s.Routed = append(s.Routed, nets("203.0.0.0/32")[0])
				a := s.Routed[i].Addr().As4()
				a[2], a[3] = byte(i>>7), byte(i<<1)
				s.Routed[i] = prefix32(a)
			}
		}},
		{"no policies", func(s *Spec) { s.Policies = nil }},
		{"one network twice", func(s *Spec) { s.Networks = append(s.Networks, s.Networks...) }},
	} {
		for _, from := range []situation{{"separate", separate()}, {"three-on-one", threeOnOne()}, {"server", server()}} {
			if len(from.spec.Uplinks[0].Gateways) == 0 && strings.Contains(c.name, "gateway") {
				continue
			}
			t.Run(c.name+"/"+from.name, func(t *testing.T) {
				r := Compile(changed(from.spec, c.change))
				checkSound(t, r)
				accepted(t, r)
			})
		}
	}
}
