package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"multiroute/agent/api"
)

// explainOptions are the flags of agent explain.
type explainOptions struct{ protocol, iface, mac, dscp, uid string }

// explainFlags adds them.
func explainFlags(flags *flag.FlagSet, c *call) {
	flags.StringVar(&c.explain.protocol, "protocol", "", "`NAME` or number of the protocol: tcp (default), udp, icmp ...")
	flags.StringVar(&c.explain.iface, "interface", "", "`NAME` of the interface by which it comes in")
	flags.StringVar(&c.explain.mac, "mac", "", "hardware `ADDRESS` of who sends it")
	flags.StringVar(&c.explain.dscp, "dscp", "", "`NAME` or number of its DSCP, such as ef or 46")
	flags.StringVar(&c.explain.uid, "uid", "", "`NUMBER` of the user on the router who sends it")
}

// explain is agent explain.
func explain(c *call) error {
	if len(c.args) != 2 {
		return fmt.Errorf(`%w: write "agent explain FROM TO", such as "agent explain 192.168.0.10 198.51.100.1:443" or "agent explain local 198.51.100.1"`, errUsage)
	}
	o := c.explain
	request, err := api.ParseExplain(c.args[0], c.args[1], o.protocol, o.iface, o.mac, o.dscp, o.uid)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	client, ctx, cancel := c.daemon()
	defer cancel()
	e, err := client.Explain(ctx, request)
	if err != nil {
		return err
	}
	if !c.json {
		c.printExplanation(e)
	} else if err := c.printJSON(e); err != nil {
		return err
	}
	if !e.Agrees {
		return errors.New("the kernel does not do what is wanted")
	}
	return nil
}

func (c *call) printExplanation(e api.Explanation) {
	for _, sentence := range e.Why {
		fmt.Fprintln(c.out, sentence)
	}
	fmt.Fprintln(c.out)
	line := func(key, text string) {
		if text != "" {
			fmt.Fprintf(c.out, "%-11s%s\n", key, text)
		}
	}
	deref := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	var candidates []string
	for _, m := range e.Candidates {
		candidates = append(candidates, fmt.Sprintf("%s %d", m.Uplink, m.Weight))
	}
	line("rule", deref(e.Rule))
	line("policy", deref(e.Policy))
	line("candidates", strings.Join(candidates, ", "))
	line("uplink", deref(e.Uplink))
	line("interface", deref(e.Interface))
	if e.Gateway != nil {
		line("gateway", e.Gateway.String())
	}
	if e.Source != nil {
		line("source", e.Source.String())
	}
	if e.Table != nil {
		line("table", fmt.Sprint(*e.Table))
	}
}
