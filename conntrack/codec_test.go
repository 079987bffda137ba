package conntrack

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// samples are connections of every form of tuple.
func samples() map[string]Entry {
	return map[string]Entry{
		"udp": {
			Family: FamilyIPv4, Proto: protoUDP,
			Orig:  Tuple{Src: addr("192.168.0.2"), Dst: addr("203.0.113.9"), SrcPort: 40000, DstPort: 53},
			Reply: Tuple{Src: addr("203.0.113.9"), Dst: addr("198.51.100.7"), SrcPort: 53, DstPort: 40000},
			Mark:  0x01000042, Status: StatusConfirmed | StatusSrcNAT, Timeout: 30, ID: 0xdeadbeef,
		},
		"tcp6 in a zone": {
			Family: FamilyIPv6, Proto: protoTCP,
			Orig:  Tuple{Src: addr("fd00::2"), Dst: addr("2001:db8::9"), SrcPort: 1, DstPort: 65535},
			Reply: Tuple{Src: addr("2001:db8::9"), Dst: addr("fd00::2"), SrcPort: 65535, DstPort: 1},
			Mark:  0xff000000, Status: StatusSeenReply, Zone: 7, Timeout: 432000,
		},
		"all that the kernel may know": {
			Family: FamilyIPv4, Proto: protoTCP,
			Orig:   Tuple{Src: addr("192.168.0.3"), Dst: addr("203.0.113.9"), SrcPort: 40000, DstPort: 443},
			Reply:  Tuple{Src: addr("203.0.113.9"), Dst: addr("198.51.100.7"), SrcPort: 443, DstPort: 40000},
			Status: StatusSeenReply, TCPState: TCPFinWait,
			Counted: true, Sent: Counters{Packets: 1 << 40, Bytes: 1<<64 - 1}, Received: Counters{Packets: 2, Bytes: 80},
			Start: 1_795_000_000_123_456_789,
		},
		"icmp": {
			Family: FamilyIPv4, Proto: protoICMP,
			Orig:  Tuple{Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), ICMPID: 77, ICMPType: 8},
			Reply: Tuple{Src: addr("10.0.0.2"), Dst: addr("10.0.0.1"), ICMPID: 77, ICMPType: 0},
		},
		"icmpv6": {
			Family: FamilyIPv6, Proto: protoICMPv6,
			Orig:  Tuple{Src: addr("fd00::1"), Dst: addr("fd00::2"), ICMPID: 77, ICMPType: 128},
			Reply: Tuple{Src: addr("fd00::2"), Dst: addr("fd00::1"), ICMPID: 77, ICMPType: 129, ICMPCode: 1},
		},
		"protocol without ports, zones per direction": {
			Family: FamilyIPv4, Proto: 50,
			Orig:  Tuple{Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), Zone: 3},
			Reply: Tuple{Src: addr("10.0.0.2"), Dst: addr("10.0.0.1"), Zone: 65535},
		},
		"gre": {
			Family: FamilyIPv4, Proto: protoGRE,
			Orig:  Tuple{Src: addr("10.0.0.1"), Dst: addr("10.0.0.2"), SrcPort: 9, DstPort: 10},
			Reply: Tuple{Src: addr("10.0.0.2"), Dst: addr("10.0.0.1"), SrcPort: 10, DstPort: 9},
		},
		"addresses of IPv4 inside IPv6": {
			Family: FamilyIPv6, Proto: protoUDP,
			Orig:  Tuple{Src: addr("::ffff:10.0.0.1"), Dst: addr("::ffff:10.0.0.2"), SrcPort: 9, DstPort: 10},
			Reply: Tuple{Src: addr("::ffff:10.0.0.2"), Dst: addr("::ffff:10.0.0.1"), SrcPort: 10, DstPort: 9},
		},
	}
}

// appendEntry encodes a whole entry as the kernel lists it.
func appendEntry(b []byte, e Entry) []byte {
	b = appendNFGen(b, e.Family)
	b = appendTuple(b, ctaTupleOrig, e.Proto, e.Orig)
	b = appendTuple(b, ctaTupleReply, e.Proto, e.Reply)
	b = appendU32(b, ctaStatus, uint32(e.Status))
	b = appendU32(b, ctaTimeout, e.Timeout)
	if e.Mark != 0 {
		b = appendU32(b, ctaMark, e.Mark)
	}
	b = appendU32(b, ctaID, e.ID)
	if e.Zone != 0 {
		b = appendU16(b, ctaZone, e.Zone)
	}
	if e.Counted {
		b = appendCounters(b, ctaCountOrig, e.Sent)
		b = appendCounters(b, ctaCountReply, e.Received)
	}
	if e.Start != 0 {
		var at int
		b, at = beginNest(b, ctaTimestamp)
		b = endNest(appendU64(b, ctaTimestampStart, e.Start), at)
	}
	if e.TCPState != 0 {
		var info, tcp int
		b, info = beginNest(b, ctaProtoInfo)
		b, tcp = beginNest(b, ctaProtoInfoTCP)
		b = endNest(endNest(appendU8(b, ctaTCPState, uint8(e.TCPState)), tcp), info)
	}
	return b
}

func appendU64(b []byte, typ uint16, v uint64) []byte {
	return binary.BigEndian.AppendUint64(appendHeader(b, typ, 8), v)
}

func appendCounters(b []byte, typ uint16, c Counters) []byte {
	b, at := beginNest(b, typ)
	return endNest(appendU64(appendU64(b, ctaPackets, c.Packets), ctaBytes, c.Bytes), at)
}

func TestEntryRoundTrip(t *testing.T) {
	t.Parallel()
	for name, want := range samples() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := want.check(); err != nil {
				t.Fatal(err)
			}
			data := appendEntry(nil, want)
			got, err := decodeEntry(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compareAddr); diff != "" {
				t.Errorf("unexpected entry (-want +got):\n%s", diff)
			}
			mark, err := decodeMark(data)
			if err != nil || mark != want.Mark {
				t.Errorf("decodeMark = %#x, %v; want %#x", mark, err, want.Mark)
			}
		})
	}
}

// TestEncode compares with bytes written by hand from nfnetlink_conntrack.h.
func TestEncode(t *testing.T) {
	t.Parallel()
	if !littleEndian() {
		t.Skip("the expected bytes are those of a little-endian machine")
	}
	udp := samples()["udp"]
	zoned := samples()["tcp6 in a zone"]
	key := "02000000" + // nfgenmsg: AF_INET
		"34000180" + // CTA_TUPLE_ORIG, nested
		"14000180" + "08000100c0a80002" + "08000200cb007109" + // IP: source, destination
		"1c000280" + "0500010011000000" + "060002009c400000" + "0600030000350000" // proto: udp, ports
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"delete by mark", appendDeleteByMark(nil, 0x01000000, 0xff000000, FamilyAny), "00000000" + "0800080001000000" + "08001500ff000000"},
		{"delete outgoing", appendDeleteOutgoing(nil, 0x01000000, 0xff000000, FamilyIPv4), "02010000" + "0800080001000000" + "08001500ff000000" + "0800030000000010"},
		{"delete by mark and family", appendDeleteByMark(nil, 0x01000000, 0xff000000, FamilyIPv6), "0a010000" + "0800080001000000" + "08001500ff000000"},
		{"dump of all", appendDump(nil, Filter{}), "00000000"},
		{"dump by mark 0", appendDump(nil, Filter{Mask: 0xff000000, Family: FamilyIPv6}), "0a000000" + "0800080000000000" + "08001500ff000000"},
		{"set mark", appendSetMark(nil, MarkUpdate{udp, 0x02000000, 0xff000000}), key + "0800080002000000" + "08001500ff000000"},
		{"delete", appendDelete(nil, udp), key + "08000c00deadbeef"},
		{"delete without id", appendDelete(nil, Entry{Family: udp.Family, Proto: udp.Proto, Orig: udp.Orig}), key},
		{"zone", appendKey(nil, zoned)[len(appendKey(nil, zoned))-8:], "0600120000070000"},
	} {
		if got := hex.EncodeToString(tt.got); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func littleEndian() bool { return appendHeader(nil, 1, 0)[2] == 1 }

func TestDecodeMalformed(t *testing.T) {
	t.Parallel()
	udp := samples()["udp"]
	whole := appendEntry(nil, udp)
	orig := appendTuple(nil, ctaTupleOrig, protoUDP, udp.Orig)
	reply := appendTuple(nil, ctaTupleReply, protoUDP, udp.Reply)
	nfgen := appendNFGen(nil, FamilyIPv4)
	nest := func(typ uint16, inside ...[]byte) []byte {
		b, at := beginNest(nil, typ)
		return endNest(append(b, bytes.Join(inside, nil)...), at)
	}
	ip := nest(ctaTupleIP, appendAddr(nil, ctaIPv4Src, udp.Orig.Src), appendAddr(nil, ctaIPv4Dst, udp.Orig.Dst))
	proto := nest(ctaTupleProto, appendU8(nil, ctaProtoNum, protoUDP))

	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"nothing", nil},
		{"half a header", nfgen[:3]},
		{"no attributes", nfgen},
		{"unknown family", append(appendNFGen(nil, 7), whole[nfgenLen:]...)},
		{"family that does not fit the addresses", append(appendNFGen(nil, FamilyIPv6), whole[nfgenLen:]...)},
		{"no reply tuple", join(nfgen, orig)},
		{"no original tuple", join(nfgen, reply)},
		{"stray bytes", append(bytes.Clone(whole), 1, 2)},
		{"attribute shorter than its header", append(bytes.Clone(whole), 3, 0, 8, 0)},
		{"attribute of length 0", append(bytes.Clone(whole), 0, 0, 8, 0)},
		{"attribute longer than the message", append(bytes.Clone(whole), 0xff, 0xff, 8, 0, 1, 2, 3, 4)},
		{"mark of 2 bytes", append(bytes.Clone(whole), appendU16(nil, ctaMark, 1)...)},
		{"zone of 4 bytes", append(bytes.Clone(whole), appendU32(nil, ctaZone, 1)...)},
		{"status of 1 byte", append(bytes.Clone(whole), appendU8(nil, ctaStatus, 1)...)},
		{"counter of 4 bytes", append(bytes.Clone(whole), nest(ctaCountOrig, appendU32(nil, ctaBytes, 1))...)},
		{"stray byte inside counters", append(bytes.Clone(whole), nest(ctaCountReply, []byte{1})...)},
		{"start of 4 bytes", append(bytes.Clone(whole), nest(ctaTimestamp, appendU32(nil, ctaTimestampStart, 1))...)},
		{"TCP state of 4 bytes", append(bytes.Clone(whole), nest(ctaProtoInfo, nest(ctaProtoInfoTCP, appendU32(nil, ctaTCPState, 1)))...)},
		{"stray byte inside the protocol's state", append(bytes.Clone(whole), nest(ctaProtoInfo, []byte{1})...)},
		{"empty tuple", join(nfgen, nest(ctaTupleOrig), reply)},
		{"tuple without protocol", join(nfgen, nest(ctaTupleOrig, ip, nest(ctaTupleProto)), reply)},
		{"tuple without addresses", join(nfgen, nest(ctaTupleOrig, proto), reply)},
		{"tuple with one address", join(nfgen, nest(ctaTupleOrig, nest(ctaTupleIP, appendAddr(nil, ctaIPv4Src, udp.Orig.Src)), proto), reply)},
		{"address of 16 bytes", join(nfgen, nest(ctaTupleOrig, nest(ctaTupleIP, appendAddr(nil, ctaIPv4Src, addr("::1")), appendAddr(nil, ctaIPv4Dst, udp.Orig.Dst)), proto), reply)},
		{"port of 4 bytes", join(nfgen, nest(ctaTupleOrig, ip, nest(ctaTupleProto, appendU8(nil, ctaProtoNum, protoUDP), appendU32(nil, ctaProtoSrcPort, 1))), reply)},
		{"stray byte inside a tuple", join(nfgen, nest(ctaTupleOrig, ip, proto, []byte{1}), reply)},
		{"two protocols", join(nfgen, nest(ctaTupleOrig, ip, nest(ctaTupleProto, appendU8(nil, ctaProtoNum, protoTCP))), reply)},
		{"an error that a good tuple follows", join(nfgen, nest(ctaTupleOrig), orig, reply)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, err := decodeEntry(tt.data)
			if !errors.Is(err, errMalformed) {
				t.Fatalf("decodeEntry = %v, %v; want an error", e, err)
			}
			if e != (Entry{}) {
				t.Errorf("half an entry was returned with the error: %v", e)
			}
		})
	}

	for n := range len(whole) {
		if _, err := decodeMark(whole[:n]); err == nil && n < nfgenLen {
			t.Errorf("decodeMark of %d bytes: no error", n)
		}
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestDecodeTolerates: what the kernel may add or leave out.
func TestDecodeTolerates(t *testing.T) {
	t.Parallel()
	udp := samples()["udp"]
	whole := appendEntry(nil, udp)
	unknown := append(bytes.Clone(whole), appendU32(nil, 999, 1)...)
	padding := append(bytes.Clone(whole), appendU16(nil, ctaZone, 5)[:6]...)
	for name, data := range map[string][]byte{"unknown attribute": unknown, "no padding at the end": padding} {
		got, err := decodeEntry(data)
		got.Zone = 0
		if err != nil || got != udp {
			t.Errorf("%s: decodeEntry = %v, %v", name, got, err)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	data := appendEntry(nil, samples()["all that the kernel may know"])
	if n := testing.AllocsPerRun(100, func() {
		if _, err := decodeEntry(data); err != nil {
			t.Error(err)
		}
		if _, err := decodeMark(data); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations per entry", n)
	}
}

func FuzzDecode(f *testing.F) {
	for _, e := range samples() {
		f.Add(appendEntry(nil, e))
	}
	f.Add([]byte{2, 0, 0, 0, 4, 0, 1, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = decodeMark(data)
		e, err := decodeEntry(data)
		if err != nil {
			if e != (Entry{}) {
				t.Fatalf("entry %v together with error %v", e, err)
			}
			return
		}
		_ = e.String()
		// What was understood must be encoded to something that means the same, apart from
		// numbers that do not belong to the protocol.
		again, err := decodeEntry(appendEntry(nil, e))
		if err != nil {
			t.Fatalf("decoding %v again: %v", e, err)
		}
		if normal(again) != normal(e) {
			t.Fatalf("got %v\nwant %v", again, e)
		}
	})
}

// normal clears what a tuple of this protocol does not have.
func normal(e Entry) Entry {
	for _, t := range []*Tuple{&e.Orig, &e.Reply} {
		if !HasPorts(e.Proto) {
			t.SrcPort, t.DstPort = 0, 0
		}
		if e.Proto != protoICMP && e.Proto != protoICMPv6 {
			t.ICMPID, t.ICMPType, t.ICMPCode = 0, 0, 0
		}
	}
	return e
}

func TestEntryCheck(t *testing.T) {
	t.Parallel()
	good := samples()["udp"]
	for name, spoil := range map[string]func(*Entry){
		"no family":       func(e *Entry) { e.Family = 0 },
		"other family":    func(e *Entry) { e.Family = FamilyIPv6 },
		"no source":       func(e *Entry) { e.Orig.Src = netip.Addr{} },
		"no destination":  func(e *Entry) { e.Orig.Dst = netip.Addr{} },
		"mixed addresses": func(e *Entry) { e.Orig.Dst = addr("::1") },
	} {
		e := good
		spoil(&e)
		if err := e.check(); !errors.Is(err, errEntry) {
			t.Errorf("%s: check = %v", name, err)
		}
	}
}

func TestCheckMark(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mark, mask uint32
		ok         bool
	}{
		{0x01000000, 0xff000000, true},
		{0, 0xff000000, true},
		{0xffffffff, 0xffffffff, true},
		{0, 0, false},
		{1, 0, false},
		{0x01000001, 0xff000000, false},
	} {
		if err := checkMark(tt.mark, tt.mask); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrMask) {
			t.Errorf("checkMark(%#x, %#x) = %v", tt.mark, tt.mask, err)
		}
	}
	if err := (Filter{Mark: 1}).check(); !errors.Is(err, ErrMask) {
		t.Errorf("filter with a mark and no mask: %v", err)
	}
	if err := (Filter{Family: 9}).check(); err == nil {
		t.Error("filter with an unknown family: no error")
	}
}

func TestStrings(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		Status(0).String(): "0",
		(StatusSeenReply | StatusAssured | StatusHWOffload).String(): "seen-reply,assured,hw-offload",
		(StatusOffload | 1<<20).String():                             "offload,0x100000",
		TCPFinWait.String():                                          "fin-wait",
		TCPState(14).String():                                        "state-14",
		samples()["udp"].String(): "udp src=192.168.0.2 dst=203.0.113.9 sport=40000 dport=53" +
			" reply src=203.0.113.9 dst=198.51.100.7 sport=53 dport=40000 mark=0x01000042 status=confirmed,snat",
		samples()["icmp"].String(): "icmp src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=77" +
			" reply src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=77 mark=0x00000000 status=0",
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	// IPS_HW_OFFLOAD_BIT is 15 and IPS_SRC_NAT_BIT is 4 in nf_conntrack_common.h.
	if StatusHWOffload != 1<<15 || StatusNAT != 0x30 || !StatusDstNAT.NATed() || StatusSrcNATDone.NATed() {
		t.Error("the bits of Status are not the kernel's")
	}
}

func TestBatchErrors(t *testing.T) {
	t.Parallel()
	var b batchErrors
	if b.err() != nil {
		t.Error("no errors are an error")
	}
	cause := errors.New("cause")
	for range 1000 {
		b.add(cause)
	}
	err := b.err()
	if !errors.Is(err, cause) || !strings.HasSuffix(err.Error(), "and 992 more errors of that kind") {
		t.Errorf("err = %v", err)
	}
}

func TestUnsupportedError(t *testing.T) {
	t.Parallel()
	cause := errors.New("invalid argument")
	err := error(&UnsupportedError{Option: "CONFIG_NF_CT_NETLINK", Err: cause})
	if !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, cause) || !strings.Contains(err.Error(), "CONFIG_NF_CT_NETLINK") {
		t.Errorf("err = %v", err)
	}
}
