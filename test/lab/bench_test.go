//go:build linux

package lab

import (
	"fmt"
	"testing"
)

// BenchmarkRouter builds a topology and removes it.
func BenchmarkRouter(b *testing.B) {
	for _, uplinks := range []int{2, 16, MaxUplinks} {
		b.Run(fmt.Sprint(uplinks), func(b *testing.B) {
			if err := Available(); err != nil {
				b.Skip(err)
			}
			for b.Loop() {
				lab, err := NewRouter(Options{Uplinks: uplinks})
				if err != nil {
					b.Fatal(err)
				}
				lab.Close()
			}
		})
	}
}
