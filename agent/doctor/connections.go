package doctor

import "strconv"

func itoa(n int) string { return strconv.Itoa(n) }

// Connections is what is known of conntrack's table.
type Connections struct {
	Count, Max, Buckets int
	Established         int  // seconds that a silent TCP connection is remembered
	Bytes, Start        bool // of a connection are kept; Start also where this kernel cannot
	Helper              bool // helpers are assigned by port
	MemoryMiB           int  // of the machine
	Drop                uint64
	InsertFailed        uint64
	EarlyDrop           uint64
}

// connections looks at the room for connections.
func connections(f *Facts) []Finding {
	const (
		subject = "conntrack"
		roomy   = 32768 // connections
		useful  = 7440  // seconds: RFC 5382, REQ-5
	)
	c := f.Connections
	var all []Finding
	if c.Max > 0 {
		more := "sysctl -w net.netfilter.nf_conntrack_max=" + itoa(2*c.Max)
		switch percent := 100 * c.Count / c.Max; {
		case percent >= 95:
			all = append(all, finding(Error, subject, more, "%d of %d connections are in use: new ones fail", c.Count, c.Max))
		case percent >= 80:
			all = append(all, finding(Warning, subject, more, "%d of %d connections are in use", c.Count, c.Max))
		case c.Max < roomy && c.MemoryMiB >= 512 && f.forwards():
			all = append(all, finding(Warning, subject, "sysctl -w net.netfilter.nf_conntrack_max=65536", "there is room for %d connections only, with %d MiB of memory", c.Max, c.MemoryMiB))
		}
		if c.Buckets > 0 && c.Max > 8*c.Buckets {
			all = append(all, finding(Note, subject, "echo "+itoa(c.Max/4)+" > /sys/module/nf_conntrack/parameters/hashsize", "%d connections share %d buckets: looking one up takes long", c.Max, c.Buckets))
		}
	}
	timeout := "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=" + itoa(useful)
	switch {
	case c.Established > 0 && c.Established < 300:
		all = append(all, finding(Warning, subject, timeout, "TCP connections are forgotten after %d s of silence: logins and mail clients hang", c.Established))
	case c.Established > 5*24*3600:
		all = append(all, finding(Warning, subject, timeout, "dead TCP connections take room for %d days", c.Established/24/3600))
	case c.Established == 5*24*3600 && c.Max > 0 && 2*c.Count > c.Max:
		all = append(all, finding(Note, subject, timeout, "dead TCP connections take room for 5 days, and half of the room is in use"))
	}
	if c.Drop > 0 {
		all = append(all, finding(Warning, subject, "sysctl -w net.netfilter.nf_conntrack_max="+itoa(2*c.Max), "%d packets were dropped for want of room since the boot", c.Drop))
	}
	if c.EarlyDrop > 0 {
		all = append(all, finding(Warning, subject, "sysctl -w net.netfilter.nf_conntrack_max="+itoa(2*c.Max), "%d connections were ended to make room since the boot", c.EarlyDrop))
	}
	if c.InsertFailed > 0 {
		all = append(all, finding(Note, subject, "nothing, if they are few", "%d connections were refused since the boot, because others had the same addresses and ports", c.InsertFailed))
	}
	if what, sysctls := unkept(c); c.Max > 0 && what != "" {
		all = append(all, finding(Note, subject, "sysctl -w"+sysctls, "%s: agent flows cannot show it", what))
	}
	if c.Helper {
		all = append(all, finding(Note, subject, "sysctl -w net.netfilter.nf_conntrack_helper=0", "helpers follow ports: a web page can have a client open ports to the outside (NAT slipstreaming)"))
	}
	return all
}

// unkept is what the kernel does not keep of connections, and the sysctls that let it.
func unkept(c Connections) (what, sysctls string) {
	const (
		acct  = " net.netfilter.nf_conntrack_acct=1"
		stamp = " net.netfilter.nf_conntrack_timestamp=1"
	)
	switch {
	case !c.Bytes && !c.Start:
		return "bytes of connections are not counted, nor is it kept when they began", acct + stamp
	case !c.Bytes:
		return "bytes of connections are not counted", acct
	case !c.Start:
		return "it is not kept when connections began", stamp
	}
	return "", ""
}
