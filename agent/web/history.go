package web

import (
	"maps"
	"math"
	"strconv"
	"time"
)

const (
	historyStep = 2 * time.Second
	historyKept = 1800 // an hour
)

// point is what a chart shows of an uplink at one time. NaN is unknown.
type point struct {
	rtt, jitter float32 // ms
	loss        float32 // percent
	in, out     float32 // bit/s
	connections float32
}

var unknown = point{nan, nan, nan, nan, nan, nan}

var nan = float32(math.NaN())

// history is the last hour: a ring of points for each uplink, 43 KB each. Its
// methods are for one goroutine at a time.
type history struct {
	times  []int64 // unix seconds; a ring, as long as each of points
	next   int     // where the next one goes
	points map[string][]point
	last   *Snapshot // of the newest point
}

// add takes in a snapshot if it is time for another point, and reports whether
// it did.
func (h *history) add(n *Snapshot) bool {
	if h.last != nil {
		if passed := n.Time.Sub(h.last.Time); passed >= 0 && passed < historyStep-historyStep/4 {
			return false
		}
	}
	h.drop(n.Time.Unix())
	if h.points == nil {
		h.points = map[string][]point{}
	}
	if len(h.times) < historyKept {
		h.times = append(h.times, 0)
	}
	at := h.next
	h.times[at] = n.Time.Unix()
	h.next = (at + 1) % historyKept
	for _, u := range n.Status.Uplinks {
		ring := h.points[u.Name]
		for len(ring) < len(h.times) {
			ring = append(ring, unknown)
		}
		ring[at] = h.point(n, u.Name)
		h.points[u.Name] = ring
	}
	maps.DeleteFunc(h.points, func(name string, _ []point) bool { return !n.has(name) })
	h.last = n
	return true
}

// drop forgets the points from t on: where there are any, the clock was set back.
func (h *history) drop(t int64) {
	order := h.order()
	keep := len(order)
	for keep > 0 && h.times[order[keep-1]] >= t {
		keep--
	}
	if keep == len(order) {
		return
	}
	h.times, h.next = picked(h.times, order[:keep]), keep
	for name, ring := range h.points {
		h.points[name] = picked(ring, order[:keep])
	}
}

// order is where the points are, oldest first.
func (h *history) order() []int {
	order := make([]int, len(h.times))
	for i := range order {
		order[i] = (h.next + i) % len(h.times)
	}
	return order
}

func picked[T any](ring []T, order []int) []T {
	all := make([]T, len(order))
	for i, at := range order {
		all[i] = ring[at]
	}
	return all
}

// point is what n says of an uplink; rates are those since the point before.
func (h *history) point(n *Snapshot, name string) point {
	p := unknown
	for i := range n.Status.Uplinks {
		u := &n.Status.Uplinks[i]
		if u.Name != name {
			continue
		}
		p.rtt, p.jitter, p.loss = number(u.RTT), number(u.Jitter), number(u.Loss)
		if u.Connections != nil {
			p.connections = float32(*u.Connections)
		}
	}
	p.in, p.out = h.rates(n, name)
	return p
}

// rates are bit/s since the newest point.
func (h *history) rates(n *Snapshot, name string) (in, out float32) {
	if h.last == nil {
		return nan, nan
	}
	now, ok := n.Traffic[name]
	before, was := h.last.Traffic[name]
	s := n.Time.Sub(h.last.Time).Seconds()
	if !ok || !was || s <= 0 || now.InBytes < before.InBytes || now.OutBytes < before.OutBytes {
		return nan, nan
	}
	return float32(8 * float64(now.InBytes-before.InBytes) / s), float32(8 * float64(now.OutBytes-before.OutBytes) / s)
}

// newest returns the newest point of an uplink.
func (h *history) newest(name string) point {
	ring := h.points[name]
	if len(ring) == 0 {
		return unknown
	}
	return ring[(h.next+len(ring)-1)%len(ring)]
}

// appendPoint writes a point as the page's script reads it.
func appendPoint(b []byte, p point) []byte {
	b = append(b, '[')
	for i, column := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendNumber(b, column.of(&p), column.digits)
	}
	return append(b, ']')
}

func appendNumber(b []byte, v float32, digits int) []byte {
	if v != v { // NaN
		return append(b, "null"...)
	}
	if v == 0 {
		return append(b, '0')
	}
	return strconv.AppendFloat(b, float64(v), 'f', digits, 64)
}

// appendJSON writes everything, oldest first: {"t":[...],"u":{"dsl":[[...],...]}}
// with one list for each of a point's values.
func (h *history) appendJSON(b []byte) []byte {
	order := h.order()
	b = append(b, `{"t":[`...)
	for i, at := range order {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, h.times[at], 10)
	}
	b = append(b, `],"u":{`...)
	first := true
	for name, ring := range h.points {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = strconv.AppendQuote(b, name)
		b = append(b, ":["...)
		for c, column := range columns {
			if c > 0 {
				b = append(b, ',')
			}
			b = append(b, '[')
			for i, at := range order {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendNumber(b, column.of(&ring[at]), column.digits)
			}
			b = append(b, ']')
		}
		b = append(b, ']')
	}
	return append(b, "}}"...)
}

// columns are a point's values in the order in which they are written.
var columns = [...]struct {
	digits int
	of     func(*point) float32
}{
	{2, func(p *point) float32 { return p.rtt }},
	{2, func(p *point) float32 { return p.jitter }},
	{1, func(p *point) float32 { return p.loss }},
	{0, func(p *point) float32 { return p.in }},
	{0, func(p *point) float32 { return p.out }},
	{0, func(p *point) float32 { return p.connections }},
}

func number(v *float64) float32 {
	if v == nil {
		return nan
	}
	return float32(*v)
}

func (n *Snapshot) has(uplink string) bool {
	for i := range n.Status.Uplinks {
		if n.Status.Uplinks[i].Name == uplink {
			return true
		}
	}
	return false
}
