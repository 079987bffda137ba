package health

import (
	"sync"
	"sync/atomic"
	"time"
)

// inboxSize is far more results than can be believed between two steps.
const inboxSize = 1 << 14

// letter is a result with the address of the leg's judge.
type letter struct {
	to     *watch
	number uint64 // of the prober
	Result
}

// inbox is where probers put what came of their probes. Nobody waits to put.
type inbox struct {
	mu      sync.Mutex
	letters []letter
	alarm   Alarm
	poked   atomic.Bool // Run is to look at once
}

func (b *inbox) put(l letter) {
	b.mu.Lock()
	if len(b.letters) < inboxSize {
		b.letters = append(b.letters, l)
	}
	b.mu.Unlock()
	b.poke()
}

// take moves everything into to.
func (b *inbox) take(to []letter) []letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	to = append(to, b.letters...)
	clear(b.letters)
	b.letters = b.letters[:0]
	return to
}

// calm takes back that Run is to look at once. It looks into the inbox after that.
func (b *inbox) calm() { b.poked.Store(false) }

// poke wakes Run.
func (b *inbox) poke() {
	if !b.poked.Swap(true) {
		b.alarm.Set(0)
	}
}

// sleep waits for d, or until somebody pokes.
func (b *inbox) sleep(d time.Duration) error {
	b.alarm.Set(d)
	if b.poked.Load() { // since calm: it may have been set before that
		b.alarm.Set(0)
	}
	err := b.alarm.Wait()
	b.poked.Store(true) // nobody needs to wake who is awake
	return err
}
