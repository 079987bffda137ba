// Package arrows holds the test that imports point one way only (docs:
// ARCHITECTURE). It has no code of its own.
package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "multiroute/"

// pkg is what "go list -json" says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

// may lists, for each package, those of ours that its code (not its tests) may
// import. A name that ends in / stands for everything below it. What is not
// listed may import nothing of ours.
var may = map[string][]string{
	"cmd/agent":     {"agent", "agent/api", "agent/config", "agent/doctor", "agent/notify"},
	"agent":         {"agent/alarm", "agent/api", "agent/balance", "agent/config", "agent/dns", "agent/doctor", "agent/domains", "agent/health", "agent/hooks", "agent/keep", "agent/notify", "agent/plan", "agent/probe", "agent/sysctl", "agent/web", "nat", "routes", "conntrack"},
	"agent/plan":    {"agent/config", "agent/domains", "agent/health", "agent/sysctl", "nat", "routes"},
	"agent/api":     {"agent/config"},
	"agent/alarm":   {},
	"agent/balance": {},
	"agent/web":     {"agent/api"},
	"agent/config":  {},
	"agent/notify":  {},
	"agent/sysctl":  {"agent/keep"},
	"agent/health":  {"agent/config", "routes"},
	"agent/dns":     {"routes"},
	"agent/hooks":   {},
	"agent/doctor":  {"agent/config", "agent/plan", "agent/sysctl", "nat", "routes"},
	"agent/domains": {"agent/dns", "routes"},
	"agent/probe":   {"agent/config", "agent/dns", "agent/health", "datagram", "routes"},
	"nat":           {},
	"routes":        {"datagram"},
	"conntrack":     {},
	"datagram":      {},
	"test/":         {"test/", "agent", "agent/", "nat", "routes", "conntrack"},
}

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	packages := list(t)
	if len(packages) < 8 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, p := range packages {
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module)
			if ours && !allowed(p.name(), to) {
				t.Errorf("%s imports %s; it may import %q of ours", p.name(), to, rules(p.name()))
			}
		}
	}
}

// netlinkLibraries talk to the kernel.
var netlinkLibraries = []string{"github.com/vishvananda/netlink", "github.com/mdlayher/netlink", "github.com/google/nftables", "github.com/mdlayher/socket"}

// In the packages below agent nobody talks to the kernel by netlink; in nat,
// routes and conntrack specs, compile steps and differences do not, so that
// they can be tested on any system.
func TestNetlinkStaysInItsFiles(t *testing.T) {
	t.Parallel()
	// Files that are no *_linux.go and may use a library all the same: they turn
	// values into messages and back, which needs no kernel.
	codecs := []string{"nat/asked.go", "nat/clamp.go", "nat/counter.go", "nat/decode.go", "nat/dnat.go", "nat/dynamic.go", "nat/element.go", "nat/expr.go", "nat/fill.go", "nat/foreign.go", "nat/message.go", "nat/prefix.go", "nat/shadow.go"}
	for _, p := range list(t) {
		if strings.HasPrefix(p.name(), "test/") {
			continue
		}
		for _, file := range p.GoFiles {
			for _, imported := range imports(t, p.Dir+"/"+file) {
				if !slices.ContainsFunc(netlinkLibraries, func(l string) bool { return imported == l || strings.HasPrefix(imported, l+"/") }) {
					continue
				}
				name := p.name() + "/" + file
				kernel := slices.Contains([]string{"nat", "routes", "conntrack"}, p.name())
				if !kernel || !strings.HasSuffix(file, "_linux.go") && !slices.Contains(codecs, name) {
					t.Errorf("%s imports %s", name, imported)
				}
			}
		}
	}
}

// name is the path inside the module.
func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

func rules(from string) []string {
	if r, ok := may[from]; ok {
		return r
	}
	if strings.HasPrefix(from, "test/") {
		return may["test/"]
	}
	return nil
}

func allowed(from, to string) bool {
	return slices.ContainsFunc(rules(from), func(r string) bool { return r == to || strings.HasSuffix(r, "/") && strings.HasPrefix(to, r) })
}

// list returns the module's packages as they are built for Linux.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Dir,GoFiles,Imports", module+"...")
	cmd.Dir, cmd.Env = "../..", append(cmd.Environ(), "GOOS=linux")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &errOut)
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// imports returns what one file imports.
func imports(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, i := range f.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, path)
	}
	return all
}
