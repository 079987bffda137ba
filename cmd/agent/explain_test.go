package main

import (
	"context"
	"net/http"
	"net/netip"

	"multiroute/agent/api"
)

// Explain implements api.Handler: port 1 is what the kernel does otherwise, and
// nothing is known of 198.51.100.2.
func (*fakeAgent) Explain(_ context.Context, r api.ExplainRequest) (api.Explanation, error) {
	if r.To == netip.MustParseAddr("198.51.100.2") {
		return api.Explanation{}, &api.Error{Code: http.StatusBadRequest, Text: "say by which interface it comes in"}
	}
	e := api.Explanation{Rule: new("voip"), Policy: new("voice"), Candidates: []api.MemberStatus{{Uplink: "dsl", Weight: 3}, {Uplink: "lte", Weight: 1}},
		Uplink: new("dsl"), Interface: new("eth1"), Gateway: new(netip.MustParseAddr("192.0.2.1")), Source: new(netip.MustParseAddr("192.0.2.7")), Table: new(20003),
		Why: []string{"It comes in by eth0, from a client.", "Rule \"voip\" matches: policy voice."}, Agrees: r.ToPort != 1}
	if r.Protocol == 1 {
		return api.Explanation{Candidates: []api.MemberStatus{}, Why: []string{"It is for the router itself."}, Agrees: true}, nil
	}
	return e, nil
}
