//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

// tenLines are the whole configuration.
const tenLines = `[router]
lan = ["eth0"]

[uplink.dsl]
interface = "eth1"
gateway = "142.154.64.1"
weight = 3

[uplink.cable]
interface = "eth2"
gateway = "24.19.12.1"
weight = 1
`

// web is a port forward, as a drop-in.
const web = `[[port_forward]]
name = "web"
protocol = "tcp"
port = 80
to = "192.168.0.10:8080"
`

// picture is the lab.
const picture = `laptop ---- eth0 [ router ] eth1 ---- DSL    142.154.64.7 ----\
192.168.0.10     [        ] eth2 ---- cable  24.19.12.45  ---- internet`

// connections is how many are opened to see the spread; tolerance is how many percent points it may be off: with so many, chance alone
// never exceeds it.
const (
	connections = 800
	tolerance   = 10
)

// pause is between two steps.
const pause = 300 * time.Millisecond

type demo struct {
	*screen
	top    *lab.Topology
	agent  *rig.Agent
	before []string // the kernel before the start
	long   *lab.Streams
	udp    *lab.UDPStream
	moved  *lab.UDPStream // the stream on the uplink that dies
	other  *lab.UDPStream // one on the other uplink
}

// steps is the whole story.
func (d *demo) steps(ctx context.Context) error {
	d.say("%s", d.paint(bold, "multiroute, shown in a laboratory of network namespaces: nothing of this machine is touched."))
	d.say("")
	d.detail(picture)
	for _, step := range []func(context.Context) error{d.start, d.spread, d.stay, d.portForward, d.reload, d.crash, d.settle, d.providerDies, d.providerReturns, d.status, d.leaks, d.purge} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := sleep(ctx, pause); err != nil { // for the eye, and for the traffic
			return err
		}
	}
	return nil
}

// start writes the configuration and runs the agent.
func (d *demo) start(ctx context.Context) (err error) {
	if d.before, err = snapshot(d.top.Router); err != nil {
		return err
	}
	d.title("Ten lines of configuration, and the agent runs")
	d.text(tenLines)
	if err := d.write("agent.toml", tenLines); err != nil {
		return err
	}
	// The lab has no group "multiroute", the socket belongs into the lab's folder, and nobody wants to wait ten seconds for the return of an uplink.
	if err := d.write("agent.d/lab.toml", fmt.Sprintf("[api]\nsocket = %q\ngroup = \"root\"\n\n[health]\nhold_down = %q\n", d.agent.Socket(), holdDown)); err != nil {
		return err
	}
	d.say("")
	d.command("agent run")
	start := time.Now()
	if err := d.agent.Run(ctx); err != nil {
		return err
	}
	d.expect(true, "ready after %d ms: the kernel holds the wanted state, the agent has read it back", time.Since(start).Milliseconds())
	return nil
}

// spread opens connections in both families and shows what the server saw.
func (d *demo) spread(ctx context.Context) error {
	d.title("New connections are spread by weight, 3 to 1")
	d.compare(ctx, lab.Everywhere, false, 3, 1)
	d.compare(ctx, lab.Everywhere6, true, 3, 1)
	return nil
}

// compare opens connections from the laptop and compares the shares with the weights.
func (d *demo) compare(ctx context.Context, to lab.Target, v6 bool, weights ...int) {
	family, total := "IPv4", 0
	if v6 {
		family = "IPv6"
	}
	for _, w := range weights {
		total += w
	}
	r := lab.Spread(ctx, d.top.Client(), connections, to)
	d.say("   %d %s connections from the laptop; the addresses that the server saw:", connections, family)
	good, known := r.Errors == 0, 0
	for i, u := range d.top.Uplinks {
		a := u.Address.Addr()
		if v6 {
			a = u.Address6.Addr()
		}
		n := r.Sources[a]
		known += n
		d.bar(fmt.Sprintf("%-5s %-13s", u.Name, a), n, connections)
		off := 100*float64(n)/connections - 100*float64(weights[i])/float64(total)
		good = good && off > -tolerance && off < tolerance
	}
	d.expect(good && known == connections, "%d connections, %d failed, as weighted (give or take %d points)", known, r.Errors, tolerance)
	for _, err := range r.Samples {
		d.detail(err.Error())
	}
}

// stay starts the traffic that must not notice anything from now on.
func (d *demo) stay(ctx context.Context) (err error) {
	d.title("A connection stays on its uplink")
	tcp, udp := netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP), netip.AddrPortFrom(lab.InternetAddress, lab.PortEcho)
	if d.long, err = lab.StartStreams(ctx, d.top.Client(), 1, lab.To(tcp), lab.StreamOptions{Interval: 10 * time.Millisecond}); err != nil {
		return err
	}
	if d.udp, err = lab.StartUDP(ctx, d.top.Client(), lab.Socket{}, udp, time.Millisecond); err != nil {
		return err
	}
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	seen, pings := d.longAddress(), d.long.Report().Pings
	d.say("   One TCP connection that is always busy (the server sees %s, which is %s),", seen, d.uplink(seen))
	d.say("   and a UDP stream with 1000 requests a second. Both run until step %d.", d.step+4)
	d.expect(seen.IsValid() && pings > 0, "%d TCP round trips in the first second", pings)
	return nil
}

// portForward adds a web server behind the router and asks for it on both uplinks' addresses.
func (d *demo) portForward(ctx context.Context) error {
	d.title("A web server behind the router, reachable on both uplinks")
	server, err := lab.NewServer(d.top.Client())
	if err != nil {
		return err
	}
	defer server.Close()
	d.detail("agent.d/web.toml:")
	d.text(web)
	d.say("")
	if err := d.write("agent.d/web.toml", web); err != nil {
		return err
	}
	if err := d.show("reload"); err != nil {
		return err
	}
	for _, u := range d.top.Uplinks {
		url := "http://" + u.Address.Addr().String() + "/"
		d.command("curl " + url + "      (somewhere in the internet)")
		visitor, err := d.get(ctx, url)
		if err != nil {
			d.expect(false, "%s: %v", url, err)
			continue
		}
		d.expect(visitor == lab.InternetAddress, "answered by way of %s; the web server saw its visitor's own address, %s", u.Name, visitor)
	}
	return nil
}

// get asks a web server from the internet, and returns which address that saw.
func (d *demo) get(ctx context.Context, url string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	dial := func(ctx context.Context, _, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return d.top.Internet.DialTCP(ctx, lab.Socket{}, to)
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return netip.Addr{}, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return netip.Addr{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 256))
	if err != nil {
		return netip.Addr{}, err
	}
	from, err := netip.ParseAddrPort(strings.TrimSpace(string(body)))
	return from.Addr(), err
}

// reload changes the weights.
func (d *demo) reload(ctx context.Context) error {
	d.title("Other weights, without a hiccup")
	d.say("   DSL now has weight 1, like cable.")
	if err := d.write("agent.toml", strings.Replace(tenLines, "weight = 3", "weight = 1", 1)); err != nil {
		return err
	}
	if err := d.show("reload"); err != nil {
		return err
	}
	d.compare(ctx, lab.Everywhere, false, 1, 1)
	return nil
}

// crash kills the agent and starts it again.
func (d *demo) crash(ctx context.Context) error {
	d.title("The agent crashes, and is started again")
	before, err := d.numbers(ctx)
	if err != nil {
		return err
	}
	d.command("kill -9 $(pidof agent)")
	if err := d.agent.End(syscall.SIGKILL); err != nil {
		return err
	}
	r := lab.Spread(ctx, d.top.Client(), 50, lab.Everywhere)
	d.expect(r.Errors == 0, "while no agent runs: 50 new connections, %d failed", r.Errors)
	d.command("agent run")
	start := time.Now()
	if err := d.agent.Run(ctx); err != nil {
		return err
	}
	ready := time.Since(start)
	after, err := d.numbers(ctx)
	if err != nil {
		return err
	}
	d.expect(before == after, "ready after %d ms, and every uplink has the mark and table that it had: %s", ready.Milliseconds(), after)
	return nil
}

// numbers lists what the agent must remember of each uplink.
func (d *demo) numbers(ctx context.Context) (string, error) {
	status, err := d.agent.Status(ctx)
	if err != nil {
		return "", err
	}
	var list []string
	for _, u := range status.Uplinks {
		list = append(list, fmt.Sprintf("%s %#x, %d", u.Name, u.Mark, u.Table))
	}
	return strings.Join(list, "; "), nil
}

// settle ends the traffic and says how it fared.
func (d *demo) settle(context.Context) error {
	d.title("What the long connection and the UDP stream noticed")
	tcp, udp := d.long.Stop(), d.udp.Stop()
	d.expect(tcp.Opened == 1 && tcp.Broken == 0 && len(tcp.Sources) == 1, "TCP: %d round trips from %s, %d connections broken, slowest round trip %.1f ms",
		tcp.Pings, first(tcp.Sources), tcp.Broken, float64(tcp.Slowest.Microseconds())/1000)
	d.expect(udp.Lost() == 0 && len(udp.Addresses()) == 1, "UDP: %d requests from %v, %d lost", udp.Sent, udp.Addresses(), udp.Lost())
	return nil
}

// status shows what a person looks at.
func (d *demo) status(ctx context.Context) error {
	d.title("How things stand")
	if err := d.show("status"); err != nil {
		return err
	}
	status, err := d.agent.Status(ctx)
	if err != nil {
		return err
	}
	up := 0
	for _, u := range status.Uplinks {
		if u.State == api.Up {
			up++
		}
	}
	d.expect(up == len(d.top.Uplinks) && len(status.Warnings) == 0 && status.Drift.Repairs == 0, "%d uplinks are up, no warning, no repair", up)
	return nil
}

// leaks asks the providers.
func (d *demo) leaks(context.Context) error {
	d.title("What the providers saw: no packet with an address that is not the router's there")
	for _, u := range d.top.Uplinks {
		packets, err := u.Provider.Packets()
		if err != nil {
			return err
		}
		leaks, samples, err := u.Provider.Leaks()
		if err != nil {
			return err
		}
		d.expect(leaks == 0 && packets > 0, "%-5s  %6d packets, %d leaked", u.Name, packets, leaks)
		for _, l := range samples[:min(len(samples), 3)] {
			d.detail(l.String())
		}
	}
	return nil
}

// purge takes everything out again.
func (d *demo) purge(context.Context) error {
	d.title("Everything out again")
	during, err := snapshot(d.top.Router)
	if err != nil {
		return err
	}
	if err := d.show("purge"); err != nil {
		return err
	}
	after, err := snapshot(d.top.Router)
	if err != nil {
		return err
	}
	left := difference(d.before, after)
	d.expect(len(difference(d.before, during)) > 0 && len(left) == 0,
		"the kernel is as before: %d rules, routes and settings compared, %d had been changed, %d are left", len(d.before), len(difference(d.before, during)), len(left))
	d.detail(strings.Join(left, "\n"))
	return nil
}

// show runs a command of the agent and shows what it prints.
func (d *demo) show(args ...string) error {
	d.command("agent " + strings.Join(args, " "))
	out, errOut, code, err := d.agent.Command(args...)
	if err != nil {
		return err
	}
	d.detail(out)
	if code != 0 {
		return fmt.Errorf("agent %s: exit status %d: %s", strings.Join(args, " "), code, errOut)
	}
	d.detail(errOut)
	return nil
}

// write writes a file of the configuration.
func (d *demo) write(name, text string) error {
	path := filepath.Join(d.agent.Folder, name)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
}

// longAddress is what the server sees of the long connection.
func (d *demo) longAddress() netip.Addr { return first(d.long.Report().Sources) }

// uplink names the uplink of an address.
func (d *demo) uplink(a netip.Addr) string {
	for _, u := range d.top.Uplinks {
		if u.Address.Addr() == a || u.Address6.Addr() == a {
			return u.Name
		}
	}
	return "no uplink's"
}

// withLog adds the agent's last words to an error.
func (d *demo) withLog(err error) error {
	if log := d.agent.Log(); log != "" {
		return fmt.Errorf("%w\nthe end of the agent's log:\n%s", err, tail(log, 15))
	}
	return err
}

// first is any key.
func first(m map[netip.Addr]int) netip.Addr {
	for a := range m {
		return a
	}
	return netip.Addr{}
}

// sleep waits, unless it is interrupted.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
