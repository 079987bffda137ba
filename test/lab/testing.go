//go:build linux

package lab

// TB is what New needs of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Skip(...any)
	Fatal(...any)
	Cleanup(func())
}

// New builds a topology for a test, which is skipped where no lab can be built, and removes it afterwards. Build is NewRouter or NewSingleNIC.
func New(t TB, build func(Options) (*Topology, error), o Options) *Topology {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	lab, err := build(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lab.Close)
	return lab
}
