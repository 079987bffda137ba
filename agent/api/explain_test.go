package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func (*fakeHandler) Explain(context.Context, ExplainRequest) (Explanation, error) {
	return Explanation{}, nil
}

// explainHandler keeps the request and has one explanation.
type explainHandler struct {
	fakeHandler
	got ExplainRequest
}

func (h *explainHandler) Explain(_ context.Context, r ExplainRequest) (Explanation, error) {
	h.got = r
	name, table, source := "dsl", 20001, netip.MustParseAddr("192.0.2.7")
	return Explanation{Uplink: &name, Table: &table, Source: &source, Candidates: []MemberStatus{{"dsl", 3}, {"cable", 1}}, Why: []string{"So it is."}, Agrees: true}, nil
}

// TestExplainPacket: what is asked arrives whole, and so does the answer.
func TestExplainPacket(t *testing.T) {
	h := &explainHandler{}
	c := startServer(t, h, nil).client("member")
	for _, text := range [][7]string{
		{"192.168.0.10", "198.51.100.1:443", "", "", "", "", ""},
		{"192.168.0.10:5000", "198.51.100.1", "sctp", "eth0", "02:00:00:00:00:01", "46", ""},
		{"local", "[2001:db8::1]:53", "udp", "", "", "", "1000"},
		{"local:99", "2001:db8::1", "136", "", "", "ef", ""},
		{"fd00::1", "2001:db8::1", "47", "", "", "", ""},
	} {
		want, err := ParseExplain(text[0], text[1], text[2], text[3], text[4], text[5], text[6])
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Explain(t.Context(), want)
		if err != nil || h.got != want {
			t.Errorf("%q: asked %+v, arrived %+v, %v", text, want, h.got, err)
		}
		if answer, _ := h.Explain(t.Context(), want); !reflect.DeepEqual(got, answer) {
			t.Errorf("%q: answered %+v, got %+v", text, answer, got)
		}
	}
	if want, _ := ParseExplain("local:99", "2001:db8::1", "", "", "", "", ""); want.Protocol != 6 || want.FromPort != 99 || want.From.IsValid() {
		t.Errorf("the router's own: %+v", want)
	}
	if want, _ := ParseExplain("local", "2001:db8::1", "icmp", "", "", "af41", ""); want.Protocol != 58 || want.DSCP != 34 {
		t.Errorf("ICMP over IPv6: %+v", want)
	}
}

// TestExplainMistakes: what is no request is refused, with what would be right.
func TestExplainMistakes(t *testing.T) {
	for _, c := range []struct {
		text [7]string
		want string
	}{
		{[7]string{"dsl", "192.0.2.1"}, `from: "dsl" is no address`},
		{[7]string{"local", "example.org"}, `to: "example.org" is no address`},
		{[7]string{"local:http", "192.0.2.1"}, `"http" is no port`},
		{[7]string{"fe80::1%eth0", "2001:db8::1"}, "is no address"},
		{[7]string{"192.0.2.1", "2001:db8::1"}, "different families"},
		{[7]string{"local", "192.0.2.1", "quic"}, `protocol is "quic"`},
		{[7]string{"local", "192.0.2.1", "256"}, `protocol is "256"`},
		{[7]string{"local", "192.0.2.1:443", "icmp"}, "protocol icmp has no ports: leave out :443"},
		{[7]string{"local:5", "192.0.2.1", "47"}, "protocol 47 has no ports: leave out :5"},
		{[7]string{"local", "192.0.2.1", "", "", "", "voice"}, `dscp is "voice"`},
		{[7]string{"local", "192.0.2.1", "", "", "02:00"}, `mac is "02:00"`},
		{[7]string{"local", "192.0.2.1", "", "", "", "64"}, `dscp is "64"`},
		{[7]string{"local", "192.0.2.1", "", "", "", "", "root"}, `uid is "root"`},
	} {
		_, err := ParseExplain(c.text[0], c.text[1], c.text[2], c.text[3], c.text[4], c.text[5], c.text[6])
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, wanted %q in it", c.text, err, c.want)
		}
	}
	ts := startServer(t, &explainHandler{}, nil)
	for _, query := range []string{"", "from=local", "from=local&to=192.0.2.1&port=80", "from=local&to=192.0.2.1&to=192.0.2.2", "from=local&to=x"} {
		_, err := ts.client("member").do(t.Context(), http.MethodGet, pathExplain+"?"+query)
		var e *Error
		if !errors.As(err, &e) || e.Code != http.StatusBadRequest {
			t.Errorf("%q: %v", query, err)
		}
	}
}

// TestExplanationKeys: nothing is left out of the JSON, and what does not exist
// is null.
func TestExplanationKeys(t *testing.T) {
	b, err := json.Marshal(Explanation{Candidates: []MemberStatus{}, Why: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"rule":null,"policy":null,"candidates":[],"uplink":null,"interface":null,"gateway":null,"source":null,"table":null,"why":[],"agrees":false}`
	if string(b) != want {
		t.Errorf("%s, wanted %s", b, want)
	}
}
