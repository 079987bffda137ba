package agent

import "multiroute/agent/config"

// Routers have less memory than time: a long list of prefixes is some 30 MB while
// it is read, which collecting at twice the size would leave lying about. The
// heap of an ordinary configuration is a few MB, and what collecting it often
// would save of them costs more of a CPU than most that the agent does.
const (
	longConfig   = 256 << 10 // bytes, some 10,000 prefixes
	garbageLong  = 30        // percent of what is in use (GOGC)
	garbageShort = 100
)

// spare has garbage collected as often as a configuration asks for, before it is
// read.
func (o Options) spare(files config.Written) {
	if o.Garbage == nil {
		return
	}
	if files.Size() > longConfig {
		o.Garbage(garbageLong)
	} else {
		o.Garbage(garbageShort)
	}
}
