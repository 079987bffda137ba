package conntrack

import "fmt"

// Stats is how full the table of connections is, and what did not fit into it
// since the kernel started, in this network namespace.
type Stats struct {
	Entries uint64
	Limit   uint64 // nf_conntrack_max; 0: none, or the kernel does not say it (before Linux 4.18)

	InsertFailed uint64 // an entry for the same packets was there already
	Dropped      uint64 // packets of which no entry could be made: the table was full
	EarlyDropped uint64 // entries that had to make room for others
}

// Attributes of enum ctattr_stats_global and ctattr_stats_cpu.
const (
	ctaStatsEntries    = 1
	ctaStatsMaxEntries = 2

	ctaStatsInsertFailed = 9
	ctaStatsDrop         = 10
	ctaStatsEarlyDrop    = 11
)

// decodeFill reads the answer to msgStats.
func (s *Stats) decodeFill(data []byte) error {
	return s.decode(data, func(a *attrs) {
		switch a.typ {
		case ctaStatsEntries:
			s.Entries = uint64(a.u32())
		case ctaStatsMaxEntries:
			s.Limit = uint64(a.u32())
		}
	})
}

// addCPU adds what one CPU says in answer to msgCPU.
func (s *Stats) addCPU(data []byte) error {
	return s.decode(data, func(a *attrs) {
		switch a.typ {
		case ctaStatsInsertFailed:
			s.InsertFailed += uint64(a.u32())
		case ctaStatsDrop:
			s.Dropped += uint64(a.u32())
		case ctaStatsEarlyDrop:
			s.EarlyDropped += uint64(a.u32())
		}
	})
}

func (s *Stats) decode(data []byte, each func(*attrs)) error {
	if len(data) < nfgenLen {
		return fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	a := attrs{b: data[nfgenLen:]}
	for a.next() {
		each(&a)
	}
	return a.err
}
