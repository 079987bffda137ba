package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"multiroute/agent/api"
)

func flows(c *call) error {
	if len(c.args) > 1 || len(c.args) == 1 && c.args[0] == "" {
		return fmt.Errorf("%w: write \"agent flows\" or \"agent flows UPLINK\"", errUsage)
	}
	uplink := ""
	if len(c.args) == 1 {
		uplink = c.args[0]
	}
	client, ctx, cancel := c.daemon()
	defer cancel()
	if c.json {
		out := bufio.NewWriter(c.out)
		enc := json.NewEncoder(out) // a line each
		err := client.Flows(ctx, uplink, func(f api.Flow) error { return enc.Encode(f) })
		return errors.Join(err, out.Flush())
	}
	t := newTable(c.out, "UPLINK", "PROTOCOL", "SOURCE", "DESTINATION", "NAT", "FORWARD", "STATE", "AGE", "SENT", "RECEIVED", "TIMEOUT")
	var kept kept
	err := client.Flows(ctx, uplink, func(f api.Flow) error {
		kept.note(f)
		return t.row(flowCells(f)...)
	})
	if err != nil && t.rows == 0 {
		return err
	}
	err = errors.Join(err, t.flush())
	if hint := kept.hint(); err == nil && hint != "" {
		fmt.Fprintf(c.err, "agent flows: %s\n", hint)
	}
	return err
}

// kept is what the kernel keeps of at least one of some connections.
type kept struct{ any, age, bytes bool }

func (k *kept) note(f api.Flow) {
	k.any = true
	k.age = k.age || f.Age != nil
	k.bytes = k.bytes || f.SentBytes != nil || f.ReceivedBytes != nil
}

// hint says which columns are empty and how the kernel fills them; "" if none is.
func (k *kept) hint() string {
	const (
		acct  = "net.netfilter.nf_conntrack_acct=1"
		stamp = "net.netfilter.nf_conntrack_timestamp=1"
	)
	var columns, sysctls string
	switch {
	case !k.any, k.age && k.bytes:
		return ""
	case k.age:
		columns, sysctls = "SENT and RECEIVED", acct
	case k.bytes:
		columns, sysctls = "AGE", stamp
	default:
		columns, sysctls = "AGE, SENT and RECEIVED", acct+" "+stamp
	}
	return fmt.Sprintf("nothing is known for %s: the kernel keeps that of connections which begin after \"sysctl -w %s\"", columns, sysctls)
}

// flowCells are the columns for people; what is not known is a dash.
func flowCells(f api.Flow) []string {
	uplink, age, timeout := "-", "-", "-"
	if f.Uplink != nil {
		uplink = *f.Uplink
	}
	if f.Age != nil {
		age = (time.Duration(*f.Age) * time.Second).String()
	}
	if f.Timeout != nil {
		timeout = (time.Duration(*f.Timeout) * time.Second).String()
	}
	return []string{uplink, f.Protocol, f.Source.String(), f.Destination.String(), endpoint(f.NAT), endpoint(f.Inbound),
		f.State, age, size(f.SentBytes), size(f.ReceivedBytes), timeout}
}

func endpoint(e *api.Endpoint) string {
	if e == nil {
		return "-"
	}
	return e.String()
}

// sample is how many rows of a table decide how wide its columns are.
const sample = 200

// table prints rows of any number in columns. Unlike a tabwriter it keeps only the first
// rows: the columns are as wide as those need, and grow when a later row needs more.
type table struct {
	out    *bufio.Writer
	first  [][]string // nil once they are printed
	widths []int
	rows   int // without the header
}

// newTable begins a table; the caller must flush it.
func newTable(out io.Writer, header ...string) *table {
	t := &table{out: bufio.NewWriter(out), first: make([][]string, 0, sample+1), widths: make([]int, len(header))}
	t.first = append(t.first, header)
	t.widen(header)
	return t
}

func (t *table) row(cells ...string) error {
	t.rows++
	t.widen(cells)
	if t.first == nil {
		return t.print(cells)
	}
	t.first = append(t.first, cells)
	if len(t.first) <= sample {
		return nil
	}
	return t.printFirst()
}

func (t *table) widen(cells []string) {
	for i, c := range cells {
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c))
	}
}

func (t *table) printFirst() error {
	for _, cells := range t.first {
		if err := t.print(cells); err != nil {
			return err
		}
	}
	t.first = nil
	return t.out.Flush() // whoever waits sees something
}

func (t *table) print(cells []string) error {
	var line strings.Builder
	for i, c := range cells {
		if i == len(cells)-1 {
			fmt.Fprintf(&line, "%s\n", c)
		} else {
			fmt.Fprintf(&line, "%-*s  ", t.widths[i], c)
		}
	}
	_, err := t.out.WriteString(line.String())
	return err
}

// flush prints what is left.
func (t *table) flush() error {
	return t.printFirst()
}
