package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Table is our table in the kernel, in the network namespace it was opened in.
// It is used by one goroutine at a time.
type Table struct {
	write *netlink.Conn
	read  *netlink.Conn
}

// timeout bounds every exchange with the kernel: no netlink call without one.
const timeout = 5 * time.Second

// buffer holds a whole transaction, about 1 KiB a rule.
const buffer = 4 << 20

// Open connects to the kernel's nftables. It needs CAP_NET_ADMIN from the
// first read on.
func Open() (*Table, error) {
	t := &Table{}
	if err := t.dial(); err != nil {
		t.Close()
		return nil, fmt.Errorf("opening an nftables socket: %w", err)
	}
	return t, nil
}

func (t *Table) dial() error {
	var err error
	for _, c := range []**netlink.Conn{&t.read, &t.write} {
		if *c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			if errors.Is(err, unix.EPROTONOSUPPORT) {
				return fmt.Errorf("the kernel has no netfilter netlink: it was built without CONFIG_NETFILTER_NETLINK: %w", err)
			}
			return err
		}
		if err := errors.Join((*c).SetReadBuffer(buffer), (*c).SetWriteBuffer(buffer)); err != nil {
			return err
		}
	}
	return nil
}

// Close frees the sockets. The table stays.
func (t *Table) Close() {
	if t.write != nil {
		_ = t.write.Close()
	}
	if t.read != nil {
		_ = t.read.Close()
	}
	t.write, t.read = nil, nil
}

// Write makes the kernel hold want, given what Read found: for packets, in one
// transaction. Chains and sets that are right already are left alone. Long sets
// are loaded before, and what nothing leads to any more is deleted behind, in
// transactions of their own that change nothing for packets.
func (t *Table) Write(have State, want Ruleset) error {
	want = want.fingerprinted()
	for _, b := range difference(have, want) {
		if err := t.commit("writing", b); err != nil {
			return err
		}
	}
	if !have.Exists {
		return nil
	}
	have, mixed := have.written(want)
	for _, c := range mixed {
		s, err := t.rules(c.Name)
		if err != nil {
			return err
		}
		s.base = c.base()
		if !s.begins(c) {
			return fmt.Errorf("writing table inet %s: somebody changed chain %s meanwhile", TableName, c.Name)
		}
		have.chains[c.Name] = s
	}
	if b := leftovers(have, want); b != nil {
		return t.commit("tidying", b)
	}
	return nil
}

// Fill puts addresses into lists, with new timeouts where they are there already.
// The lists are those of the Ruleset that was written last. What fails for one
// set, such as ENFILE where it is full, leaves the others alone.
func (t *Table) Fill(all []Listed) error {
	var errs []error
	for _, set := range filling(all) {
		for _, b := range set {
			if err := t.commit("filling lists of", b); err != nil {
				errs = append(errs, err)
				break
			}
		}
	}
	return errors.Join(errs...)
}

// Empty takes all addresses out of lists, whoever put them there.
func (t *Table) Empty(lists []string) error { return t.commit("emptying lists of", emptying(lists)) }

// Addresses returns what is in a list, of both families. While the kernel makes
// room for many new ones it may tell some twice and others not
// (rhashtable_walk_start, lib/rhashtable.c).
func (t *Table) Addresses(list string) (all []netip.Addr, err error) {
	for _, v6 := range []bool{false, true} {
		set := ListSet(list, v6)
		messages, err := uninterrupted(func() ([]netlink.Message, error) {
			return t.dump(unix.NFT_MSG_GETSETELEM, func(ae *netlink.AttributeEncoder) {
				ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
				ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
			})
		})
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", set, err)
		}
		for _, m := range messages {
			err := eachElement(m, func(p parts) {
				if a, ok := netip.AddrFromSlice(p.data(unix.NFTA_SET_ELEM_KEY)); ok {
					all = append(all, a)
				}
			})
			if err != nil {
				return nil, fmt.Errorf("set %s: %w", set, err)
			}
		}
	}
	return all, nil
}

// Delete removes our table. A missing table is no error.
func (t *Table) Delete() error { return t.commit("deleting", removal()) }

// commit carries out a transaction. After an error the outcome may be unknown
// (an overflowing receive buffer loses the answer to a committed transaction),
// so the connection is made anew and the caller must read again.
func (t *Table) commit(verb string, b *batch) error {
	err := b.err
	if err == nil {
		err = t.exchange(b)
	}
	if err == nil {
		return nil
	}
	var failed *netlink.OpError
	op := ""
	if errors.As(err, &failed) && failed.Sequence > 1 && int(failed.Sequence) <= len(b.what) {
		op = b.what[failed.Sequence-1]
		err = fmt.Errorf("%s: %w", op, err)
	}
	return fmt.Errorf("%s table inet %s: %w%s", verb, TableName, errors.Join(err, t.redial()), hint(op, err))
}

// exchange sends a batch and waits for the kernel's word on its last operation,
// which comes after the commit, or on anything that failed.
func (t *Table) exchange(b *batch) error {
	if t.write == nil {
		return os.ErrClosed
	}
	if err := t.write.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := t.write.SendMessages(b.messages); err != nil {
		return err
	}
	last := uint32(len(b.messages) - 1)
	for {
		answers, err := t.write.Receive()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(answers, func(m netlink.Message) bool { return m.Header.Sequence == last }) {
			return nil
		}
	}
}

func (t *Table) redial() error {
	t.Close()
	return t.dial()
}

// hint says what to do about the errors that people meet.
func hint(op string, err error) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return " (it needs root, or CAP_NET_ADMIN)"
	case errors.Is(err, unix.ENFILE) && strings.HasPrefix(op, fillingSet):
		return " (the set is full)" // strerror(3) speaks of files
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAFNOSUPPORT):
		if option := missingOption(op); option != "" {
			return " (the kernel does not know this: it needs " + option + ")"
		}
	}
	return ""
}

// Read returns the state of our table.
func (t *Table) Read() (State, error) { return uninterrupted(t.readOnce) }

// errInterrupted is a dump during which the rules changed (NLM_F_DUMP_INTR).
var errInterrupted = errors.New("the rules changed while they were read")

// uninterrupted reads again if that happened.
func uninterrupted[T any](read func() (T, error)) (T, error) {
	for i := 0; ; i++ {
		all, err := read()
		if !errors.Is(err, errInterrupted) || i == 30 {
			return all, err
		}
		time.Sleep(time.Millisecond)
	}
}

func (t *Table) readOnce() (State, error) {
	tables, err := t.dump(unix.NFT_MSG_GETTABLE, nil)
	if err != nil {
		return State{}, err
	}
	if s, err := decodeState(tables, nil, nil, nil); err != nil || !s.Exists {
		return s, err
	}
	chains, err := t.dump(unix.NFT_MSG_GETCHAIN, nil)
	if err != nil {
		return State{}, err
	}
	rules, err := t.dump(unix.NFT_MSG_GETRULE, ours(unix.NFTA_RULE_TABLE))
	if err != nil {
		return State{}, err
	}
	sets, err := t.dump(unix.NFT_MSG_GETSET, ours(unix.NFTA_SET_TABLE))
	if err != nil {
		return State{}, err
	}
	s, err := decodeState(tables, chains, rules, sets)
	if err != nil {
		return State{}, err
	}
	if some, err := counts(rules); err != nil || !some {
		return s, err
	}
	counters, err := t.Counters()
	s.counters = slices.Sorted(maps.Keys(counters))
	return s, err
}

// rules returns the rules of one chain. (The kernel looks the chain up by its
// name: nf_tables_dump_rules, net/netfilter/nf_tables_api.c.)
func (t *Table) rules(chain string) (chainState, error) {
	messages, err := t.ruleMessages(chain)
	if err != nil {
		return chainState{}, err
	}
	return decodeRules(messages, chain)
}

func (t *Table) ruleMessages(chain string) ([]netlink.Message, error) {
	return uninterrupted(func() ([]netlink.Message, error) {
		return t.dump(unix.NFT_MSG_GETRULE, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_RULE_TABLE, TableName)
			ae.String(unix.NFTA_RULE_CHAIN, chain)
		})
	})
}

// Counters returns what our counters have counted, by name.
func (t *Table) Counters() (map[string]Count, error) {
	objects, err := t.dump(unix.NFT_MSG_GETOBJ, ours(unix.NFTA_OBJ_TABLE))
	if err != nil {
		return nil, err
	}
	return decodeCounters(objects)
}

// ours asks for what is in our table.
func ours(attribute uint16) func(*netlink.AttributeEncoder) {
	return func(ae *netlink.AttributeEncoder) { ae.String(attribute, TableName) }
}

// dump asks for all objects of one kind that are as filter says; nil: all of
// them (the kernel filters rules, sets and objects by table, not tables and
// chains).
func (t *Table) dump(message netlink.HeaderType, filter func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	attrs := []byte(nil)
	if filter != nil {
		var err error
		if attrs, err = encodeAttributes(filter); err != nil {
			return nil, err
		}
	}
	messages, err := t.dumpAll("table inet "+TableName, message, unix.NFPROTO_INET, attrs)
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("the kernel has no nftables: it was built without CONFIG_NF_TABLES: %w", err)
	}
	return messages, err
}

// dumpAll asks for all objects of one kind that have these attributes; what they
// are is for errors.
func (t *Table) dumpAll(what string, message netlink.HeaderType, family byte, attrs []byte) ([]netlink.Message, error) {
	fail := func(err error) error { return fmt.Errorf("reading %s: %w%s", what, err, hint("", err)) }
	if t.read == nil {
		return nil, fail(os.ErrClosed)
	}
	if err := t.read.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, fail(err)
	}
	messages, err := t.read.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | message, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, errors.Join(fail(err), t.redial())
	}
	for _, m := range messages {
		if m.Header.Flags&netlink.DumpInterrupted != 0 {
			return nil, errInterrupted
		}
	}
	return messages, nil
}

// Has reports whether a dynamic set has an element now. The key is the values of
// its fields side by side, as in Value.Raw.
func (t *Table) Has(d Dynamic, key string) (bool, error) {
	_, found, err := t.element(d.Name, d.Fields, key)
	return found, err
}

// Check asks the kernel what a walk has asked of the compiled rules, and tells
// the first thing that differs on the walk's way: the rules of a chain, or what
// a set says of a key; empty: nothing. No set is read. The error is an
// EOPNOTSUPP where nothing differs but the kernel does not answer for some set.
func (t *Table) Check(w *Walk) (string, error) {
	var untold error
	for i, name := range w.w.chains {
		if slices.Contains(w.w.chains[:i], name) {
			continue
		}
		messages, err := t.ruleMessages(name)
		if err != nil {
			return "", err
		}
		have, err := decodeRules(messages, name)
		if err != nil {
			return "", err
		}
		if text := have.otherThan(*w.w.rules.Chain(name)); text != "" {
			return text, nil
		}
		for _, a := range w.w.asked {
			if a.Chain != name {
				continue
			}
			set, err := a.lookedUpIn(messages)
			if err != nil {
				return "", err
			}
			if set == "" {
				return "chain " + name + " has other rules", nil
			}
			element, found, err := t.element(set, a.Fields, a.Key)
			switch {
			case errors.Is(err, unix.EOPNOTSUPP):
				untold = err
			case err != nil:
				return "", err
			default:
				if text := a.otherThan(element, found); text != "" {
					return text, nil
				}
			}
		}
	}
	return "", untold
}

// element asks for the element of a set that a key is in; false: it is in none.
// The key is the values of the set's fields side by side, as in Value.Raw. Of a
// set that is not there the kernel says the same as of an empty one; but what a
// rule looks into is there as long as the rule is.
func (t *Table) element(set string, fields []Field, key string) (parts, bool, error) {
	fail := func(err error) (parts, bool, error) {
		return nil, false, fmt.Errorf("looking into set %s of table inet %s: %w", set, TableName, err)
	}
	data, err := encodeAttributes(func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		list := newElementList(Set{Fields: fields})
		list.element(Element{Lo: key, Hi: key})
		ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, list.buf)
	})
	if err != nil {
		return fail(err)
	}
	if t.read == nil {
		return fail(os.ErrClosed)
	}
	if err := t.read.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fail(err)
	}
	messages, err := t.read.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM, Flags: netlink.Request},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...),
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, false, nil
	case err != nil:
		return fail(errors.Join(err, t.redial()))
	}
	var element parts
	for _, m := range messages {
		if err := eachElement(m, func(p parts) { element = p }); err != nil {
			return fail(err)
		}
	}
	return element, true, nil
}

// Watch calls changed after every nftables transaction of another process, and
// once at the start; but filled, with the set's name, for elements that came to a
// dynamic set of ours or left it, whoever did that. Neither may block. Watch
// returns nil when ctx ends.
func Watch(ctx context.Context, changed func(), filled func(set string)) error {
	for {
		if err := watch(ctx, changed, filled); !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		// Overflow: after the error, the kernel goes on losing messages without
		// a word until the queue is empty (NETLINK_S_CONGESTED), so it takes a
		// new socket.
	}
}

func watch(ctx context.Context, changed func(), filled func(string)) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("opening an nftables monitor: %w", err)
	}
	defer c.Close()
	if err := c.SetReadBuffer(2 * buffer); err != nil {
		return fmt.Errorf("nftables monitor: setting its buffer: %w", err)
	}
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("nftables monitor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	changed()
	content := false // of the transaction so far, beyond elements that come and go
	for {
		messages, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("nftables monitor: %w", err)
		}
		for _, m := range messages {
			if _, end := decodeGeneration(m); !end {
				set, ok := fills(m)
				if ok {
					filled(set)
				}
				content = content || !ok
				continue
			}
			if content && foreign(m) {
				changed()
			}
			content = false
		}
	}
}

// foreign reports whether m ends a transaction that was not ours. In a PID
// namespace ours count as foreign, too: the kernel names the thread by the
// number it has outside.
func foreign(m netlink.Message) bool {
	g, ok := decodeGeneration(m)
	if !ok {
		return false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/comm", g.thread))
	return err != nil || strings.TrimSuffix(string(name), "\n") != g.name
}
