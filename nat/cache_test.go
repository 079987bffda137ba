package nat

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

// TestCache: it compiles as Compile does, whatever came before.
func TestCache(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var c Cache
	for range 200 {
		s := ruleSpec(randomRules(r)...)
		s.Lists = testLists
		for range 3 {
			s.Guard = !s.Guard
			if got := c.Compile(s); !reflect.DeepEqual(got, Compile(s)) {
				t.Fatalf("got %s\nwant %s", got, Compile(s))
			}
			if r.IntN(3) == 0 {
				s.Policies = append([]Policy(nil), s.Policies...)
				s.Policies[1].Name += "x"
			}
		}
	}
	if s := separate(); !reflect.DeepEqual(c.Compile(s), Compile(s)) {
		t.Error("a spec without rules")
	}
}

// TestCacheFields: each field of a rule counts.
func TestCacheFields(t *testing.T) {
	typ := reflect.TypeFor[PolicyRule]()
	for i := range typ.NumField() {
		var a, b PolicyRule
		v := reflect.ValueOf(&b).Elem().Field(i)
		switch v.Kind() {
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		case reflect.String:
			v.SetString("x")
		case reflect.Bool:
			v.SetBool(true)
		default:
			v.SetUint(1)
		}
		if a.equal(b) || b.equal(a) || !b.equal(b) {
			t.Errorf("%s does not count", typ.Field(i).Name)
		}
	}
}

func BenchmarkCacheCompile(b *testing.B) {
	spec := ruleSpec(PolicyRule{To: manyPrefixes(100000, 0), Policy: markOf(10)}, PolicyRule{To: manyPrefixes(100000, 1), Policy: markOf(11)})
	var c Cache
	c.Compile(spec)
	for b.Loop() {
		c.Compile(spec)
	}
}
