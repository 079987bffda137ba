package health

import "sync"

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
	wake    chan struct{} // holds one
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

// calm takes back that Run is to be woken. It looks into the inbox after that.
func (b *inbox) calm() {
	select {
	case <-b.wake:
	default:
	}
}

// poke wakes Run.
func (b *inbox) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
