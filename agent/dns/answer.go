package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"multiroute/routes"
)

// Bounds of what is read of one answer.
const (
	maxAddresses = 256
	maxRecords   = 1024
	maxAliases   = 16
)

// Addresses is what a server says of a name.
type Addresses struct {
	Addrs []netip.Addr
	// TTL is the shortest of the records that lead to the addresses; without
	// addresses, how long that is so (RFC 2308), 0 if the server does not say.
	TTL time.Duration
	// Alias is the name that the one asked for stands for, if the server does not
	// say that one's addresses.
	Alias string
	// Truncated: there is more, over TCP.
	Truncated bool
}

// ErrRefused is a server that does not help: another one may.
var ErrRefused = errors.New("the server does not answer the question")

// Parse reads an answer to query, which Answers has found to be one. It follows
// aliases (CNAME) inside the answer; records of other names are skipped.
func Parse(b, query []byte, family routes.Family) (Addresses, error) {
	if code, ok := Answers(b, query); !ok {
		return Addresses{}, errors.New("no answer to this question")
	} else if code != dnsmessage.RCodeSuccess && code != dnsmessage.RCodeNameError {
		return Addresses{}, fmt.Errorf("%w: %s", ErrRefused, code)
	}
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil {
		return Addresses{}, fmt.Errorf("reading a DNS answer: %w", err)
	}
	q, err := p.Question()
	if err != nil {
		return Addresses{}, fmt.Errorf("reading a DNS answer: %w", err)
	}
	if h.Truncated {
		return Addresses{Truncated: true}, nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return Addresses{}, fmt.Errorf("reading a DNS answer: %w", err)
	}
	r := records{addrs: map[string][]record{}, aliases: map[string]record{}}
	if err := r.read(&p, family); err != nil {
		return Addresses{}, fmt.Errorf("reading a DNS answer: %w", err)
	}
	return r.follow(fold(q.Name.String())), nil
}

// record is an address or another name, and how long that is so.
type record struct {
	addr netip.Addr
	name string
	ttl  time.Duration
}

type records struct {
	addrs    map[string][]record
	aliases  map[string]record
	negative time.Duration
}

func (r *records) read(p *dnsmessage.Parser, family routes.Family) error {
	for range maxRecords {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			r.readNegative(p)
			return nil
		}
		if err != nil {
			return err
		}
		name, ttl := fold(h.Name.String()), time.Duration(h.TTL)*time.Second
		if h.TTL > 1<<31-1 {
			ttl = 0 // RFC 2181, 8
		}
		switch {
		case h.Class != dnsmessage.ClassINET:
			err = p.SkipAnswer()
		case h.Type == dnsmessage.TypeCNAME:
			var c dnsmessage.CNAMEResource
			if c, err = p.CNAMEResource(); err == nil {
				r.aliases[name] = record{name: fold(c.CNAME.String()), ttl: ttl}
			}
		case h.Type == dnsmessage.TypeA && family == routes.IPv4:
			var a dnsmessage.AResource
			if a, err = p.AResource(); err == nil {
				r.addrs[name] = append(r.addrs[name], record{addr: netip.AddrFrom4(a.A), ttl: ttl})
			}
		case h.Type == dnsmessage.TypeAAAA && family == routes.IPv6:
			var a dnsmessage.AAAAResource
			if a, err = p.AAAAResource(); err == nil {
				r.addrs[name] = append(r.addrs[name], record{addr: netip.AddrFrom16(a.AAAA), ttl: ttl})
			}
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			return err
		}
	}
	return errors.New("too many records")
}

// readNegative reads how long what is not there is not (RFC 2308, 5). A server
// that does not say it properly has not said it.
func (r *records) readNegative(p *dnsmessage.Parser) {
	for range maxAliases {
		h, err := p.AuthorityHeader()
		if err != nil {
			return
		}
		if h.Type != dnsmessage.TypeSOA {
			if p.SkipAuthority() != nil {
				return
			}
			continue
		}
		if soa, err := p.SOAResource(); err == nil {
			r.negative = time.Duration(min(h.TTL, soa.MinTTL)) * time.Second
		}
		return
	}
}

// follow goes from alias to alias until there are addresses.
func (r *records) follow(name string) Addresses {
	var a Addresses
	shortest := time.Duration(-1)
	shorten := func(ttl time.Duration) {
		if shortest < 0 || ttl < shortest {
			shortest = ttl
		}
	}
	for range maxAliases {
		if list := r.addrs[name]; len(list) > 0 {
			for _, x := range list[:min(len(list), maxAddresses)] {
				shorten(x.ttl)
				if useful(x.addr) {
					a.Addrs = append(a.Addrs, x.addr)
				}
			}
			a.TTL, a.Alias = shortest, ""
			return a
		}
		next, ok := r.aliases[name]
		if !ok {
			break
		}
		shorten(next.ttl)
		name, a.Alias = next.name, next.name
	}
	if a.TTL = r.negative; a.Alias != "" {
		a.TTL = shortest
	}
	return a
}

// useful reports whether an address can be anywhere out there.
func useful(a netip.Addr) bool {
	a = a.Unmap()
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// fold makes names comparable.
func fold(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
