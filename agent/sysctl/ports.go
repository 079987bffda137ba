package sysctl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Ports is what the kernel is told about the ports of this machine's own
// programs, TCP and UDP, IPv4 and IPv6, in this network namespace.
type Ports struct {
	// First is the first of those that the kernel gives to who asks for none
	// (net.ipv4.ip_local_port_range); 0: not known.
	First uint16
	// Reserved are those that it never gives so, because they belong to
	// services (net.ipv4.ip_local_reserved_ports), in ascending order.
	Reserved []PortRange
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ Lo, Hi uint16 }

const (
	portRange     = "net/ipv4/ip_local_port_range"
	reservedPorts = "net/ipv4/ip_local_reserved_ports"
)

// Each range becomes an element of a set in the kernel. All ports together take
// at most 4 bytes each in the list: "10000-10001," for two of three.
const (
	mostRanges  = 1000
	longestList = 4 << 16 // bytes
)

// Ports reads what the kernel is told about ports. What it does not know of is
// zero.
func (s Store) Ports() (Ports, error) {
	var p Ports
	text, err := s.readList(portRange)
	if err == nil {
		p.First, err = parsePortRange(text)
	}
	list, errList := s.readList(reservedPorts)
	if errList == nil {
		p.Reserved, errList = parsePorts(list)
	}
	return p, errors.Join(err, errList)
}

// readList reads a parameter that may be longer than others; a missing one is
// empty. The kernel cuts a list that does not fit, in the middle of a number,
// without a word (proc_do_large_bitmap, kernel/sysctl.c). Only the end of the
// line says that it is all.
func (s Store) readList(key string) (string, error) {
	for _, size := range []int{4096, longestList + 1} {
		b := make([]byte, size)
		n, err := s.Files.read(s.path(key), b)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("reading a sysctl: %w", err)
		}
		if text, whole := strings.CutSuffix(string(b[:n]), "\n"); whole || n == 0 {
			return text, nil
		}
	}
	return "", fmt.Errorf("reading a sysctl: %s does not end within %d bytes", dotted(key), longestList)
}

// parsePortRange returns the lower end of "32768	60999".
func parsePortRange(text string) (uint16, error) {
	if text == "" {
		return 0, nil
	}
	lo, _, _ := strings.Cut(text, "\t")
	n, err := strconv.ParseUint(lo, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("sysctl %s: %.50q does not begin with a port: set it anew, as in sysctl -w %[1]s=\"32768 60999\"", dotted(portRange), text)
	}
	return uint16(n), nil
}

// parsePorts reads "53,8000-8010", as the kernel writes it (networking/ip-sysctl
// in its documentation): in ascending order, with no spaces.
func parsePorts(text string) ([]PortRange, error) {
	if text == "" {
		return nil, nil
	}
	var all []PortRange
	next := 0 // the lowest port that may follow
	for word := range strings.SplitSeq(text, ",") {
		if len(all) == mostRanges {
			return nil, fmt.Errorf("sysctl %s has more than %d ranges of ports: join those that are close together", dotted(reservedPorts), mostRanges)
		}
		first, last, ranged := strings.Cut(word, "-")
		lo, err := strconv.ParseUint(first, 10, 16)
		hi := lo
		if ranged {
			var errLast error
			hi, errLast = strconv.ParseUint(last, 10, 16)
			err = cmp.Or(err, errLast)
		}
		if err != nil || lo > hi || int(lo) < next {
			return nil, fmt.Errorf("sysctl %s: %.50q is no port or range above those before it: set it anew, as in sysctl -w %[1]s=40000,51821-51829", dotted(reservedPorts), word)
		}
		all = append(all, PortRange{uint16(lo), uint16(hi)})
		next = int(hi) + 1
	}
	return all, nil
}
