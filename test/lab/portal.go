//go:build linux

package lab

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Portal is a captive portal: every name has the gateway's address, every HTTP request is answered by the portal. What else the customer sends is
// forwarded as before, unless the provider is told to Break it.
type Portal struct {
	Server *Server // answers the requests, see Server.Answer; at first it sends everybody to its login page

	provider *Provider
}

// portalTable holds the redirections in the provider's namespace.
const portalTable = "portal"

// Portal puts the provider's customer behind a captive portal, until Close.
func (p *Provider) Portal() (*Portal, error) {
	server, err := NewServer(p.NS)
	if err != nil {
		return nil, err
	}
	server.Resolve("*", time.Minute, p.gateway4())
	server.Answer(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://portal.example/login", http.StatusFound)
	})
	portal := &Portal{Server: server, provider: p}
	if err := portal.redirect(true); err != nil {
		server.Close()
		return nil, err
	}
	return portal, nil
}

// redirect makes the kernel send web and DNS traffic of the customer to the portal, or ends that.
func (p *Portal) redirect(on bool) error {
	c, err := nftables.New(nftables.WithNetNSFd(p.provider.NS.fd))
	if err != nil {
		return fmt.Errorf("opening nftables in %s: %w", p.provider.NS.Name, err)
	}
	table := &nftables.Table{Name: portalTable, Family: nftables.TableFamilyINet}
	c.AddTable(table)
	if on {
		chain := c.AddChain(&nftables.Chain{Name: "capture", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
		for _, r := range []struct {
			protocol byte
			port, to uint16
		}{{unix.IPPROTO_TCP, 80, PortHTTP}, {unix.IPPROTO_TCP, PortHTTP, PortHTTP}, {unix.IPPROTO_UDP, PortDNS, PortDNS}} {
			name := make([]byte, unix.IFNAMSIZ)
			copy(name, customerSide)
			rule := append(metaIs(expr.MetaKeyIIFNAME, name), metaIs(expr.MetaKeyL4PROTO, []byte{r.protocol})...)
			rule = append(rule, payloadIs(expr.PayloadBaseTransportHeader, 2, binary.BigEndian.AppendUint16(nil, r.port))...)
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(rule, // redirect to :8080
				&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, r.to)},
				&expr.Redir{RegisterProtoMin: 1})})
		}
	} else {
		c.DelTable(table)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("redirecting what %s's customer sends: %w", p.provider.NS.Name, err)
	}
	return nil
}

// Close lets the customer out.
func (p *Portal) Close() error {
	err := p.redirect(false)
	p.Server.Close()
	return err
}
