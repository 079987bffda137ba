package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"multiroute/agent/api"
)

//go:embed ui
var files embed.FS

// assets are what the page loads, by path.
var assets = map[string]struct{ file, kind string }{
	"/style.css":         {"ui/style.css", "text/css; charset=utf-8"},
	"/app.js":            {"ui/app.js", "text/javascript; charset=utf-8"},
	"/icon.svg":          {"ui/icon.svg", "image/svg+xml"},
	"/uplot.js":          {"ui/uplot.js", "text/javascript; charset=utf-8"},
	"/uplot.css":         {"ui/uplot.css", "text/css; charset=utf-8"},
	"/uplot.LICENSE.txt": {"ui/uplot.LICENSE.txt", "text/plain; charset=utf-8"},
}

// asset serves a file, which a browser may keep as long as it asks whether it is
// still the same.
func asset(file, kind string) (http.Handler, error) {
	content, err := files.ReadFile(file)
	if err != nil {
		return nil, err
	}
	tag := fmt.Sprintf(`"%.16x"`, sha256.Sum256(content))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("Cache-Control", "no-cache")
		h.Set("Etag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}), nil
}

// The page, and the parts of it that change, each by its name.
func parsePage() (*template.Template, error) {
	return template.New("page.html").Funcs(template.FuncMap{"state": stateView, "protocols": protocols}).ParseFS(files, "ui/page.html")
}

// view is what the page shows.
type view struct {
	Version    string
	Ready      bool
	Headline   string
	Mood       api.State // of the headline
	Problems   []string
	Rows       []row
	Policies   []policyView
	Log        []logLine
	Zone       string // of Log's clocks
	Generation uint64
	Repairs    uint64
	Table      string // how full the kernel's table of connections is
	Explain    explainView
}

type row struct {
	Name, Interface, Address, Gateway string
	State                             api.State
	Reason                            string
	Since                             string
	SinceTime                         string
	RTT, Loss, In, Out, Connections   string
}

type policyView struct {
	Name, Tier string
	Shares     []share
}

type share struct {
	Uplink  string
	Percent int
}

type logLine struct {
	ID               uint64
	Time, Clock, Day string
	Uplink           string
	From, To         api.State
	Family           string // what became of one family; empty: the change is of From to To
	Reason, Cause    string
	Took             string
}

type explainView struct {
	From, To, Protocol string
	Error              string
	Answer             *api.Explanation
	Sentence           string
}

// stateView is how a state looks: never by its colour alone.
func stateView(s api.State) map[string]string {
	icon := map[api.State]string{api.Up: "#i-up", api.Degraded: "#i-degraded", api.Down: "#i-down", api.Disabled: "#i-disabled"}[s]
	return map[string]string{"Word": string(s), "Icon": icon}
}

// protocols are those that the form offers.
func protocols() []string { return []string{"tcp", "udp", "icmp"} }

// shownEvents is how many events the page shows, newest first.
const shownEvents = 50

// viewOf makes a view. rates says how many bit/s an uplink receives and sends.
func viewOf(version string, n *Snapshot, rates func(string) (in, out float32)) view {
	v := view{Version: version}
	if n == nil {
		v.Headline, v.Mood = "The agent is starting", api.Degraded
		return v
	}
	s := &n.Status
	v.Ready, v.Generation, v.Repairs = s.Ready, s.Config.Generation, s.Drift.Repairs
	v.Headline, v.Mood = headline(s)
	v.Zone = n.Time.Format("UTC-07:00")
	if s.Config.Error != nil {
		v.Problems = append(v.Problems, "The newest configuration was refused, the one before is in force: "+*s.Config.Error)
	}
	v.Problems = append(v.Problems, s.Warnings...)
	for i := range s.Uplinks {
		u := &s.Uplinks[i]
		in, out := rates(u.Name)
		r := row{Name: u.Name, Interface: u.Interface, State: u.State, Address: joined(u.Addresses...), Gateway: joined(deref(u.Gateway), deref(u.Gateway6)),
			RTT: milliseconds(u.RTT), Loss: percent(u.Loss), In: bitrate(in), Out: bitrate(out), Connections: "–"}
		if u.Reason != nil {
			r.Reason = *u.Reason
		}
		if u.Until != nil {
			if left := u.Until.Sub(n.Time); left > 0 {
				r.Reason = strings.TrimPrefix(r.Reason+"; ", "; ") + "back in " + span(left) + " at the earliest"
			}
		}
		if u.Since != nil {
			r.Since, r.SinceTime = span(n.Time.Sub(*u.Since)), u.Since.Format(time.RFC3339)
		}
		if u.Connections != nil {
			r.Connections = strconv.Itoa(*u.Connections)
		}
		v.Rows = append(v.Rows, r)
	}
	for _, p := range s.Policies {
		v.Policies = append(v.Policies, policyOf(p))
	}
	for _, e := range slices.Backward(n.Events) {
		if len(v.Log) == shownEvents {
			break
		}
		l := logLine{ID: e.ID, Time: e.Time.Format(time.RFC3339), Clock: e.Time.Format("15:04:05"), Day: e.Time.Format("2 Jan"), Uplink: e.Uplink, From: e.From, To: e.To, Reason: e.Reason, Cause: string(e.Cause)}
		if e.Family != "" { // the state is what it was
			l.From = ""
			l.Family = familyChange(e)
		}
		if e.Lost() && !e.Routed.IsZero() {
			l.Took = e.Routed.Sub(e.Noticed).Round(time.Millisecond).String()
		}
		v.Log = append(v.Log, l)
	}
	if t := n.Conntrack; t != nil {
		v.Table = strconv.FormatUint(t.Entries, 10)
		if t.Limit > 0 {
			v.Table += " of " + strconv.FormatUint(t.Limit, 10)
		}
	}
	return v
}

// familyChange says what became of one family of an uplink.
func familyChange(e api.Event) string {
	name := map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}[e.Family]
	if e.Lost() {
		return name + " is lost"
	}
	return name + " works"
}

// headline says in a sentence how things are, and how bad that is.
func headline(s *api.Status) (string, api.State) {
	well := 0
	var ill []string
	mood := api.Up
	for _, u := range s.Uplinks {
		switch u.State {
		case api.Up:
			well++
		case api.Disabled:
			ill = append(ill, u.Name+" is disabled")
		default:
			ill = append(ill, u.Name+" is "+string(u.State))
			mood = api.Degraded
		}
	}
	text := fmt.Sprintf("%d of %d uplinks are up", well, len(s.Uplinks))
	switch {
	case well == len(s.Uplinks) && well == 1:
		text = "The uplink is up"
	case well == len(s.Uplinks):
		text = fmt.Sprintf("All %d uplinks are up", well)
	case well == 0 && mood != api.Up:
		text, mood = "No uplink is up", api.Down
	}
	if len(ill) > 3 {
		ill = append(ill[:3], fmt.Sprintf("%d more", len(ill)-3))
	}
	if len(ill) > 0 {
		text += ": " + strings.Join(ill, ", ")
	}
	if !s.Ready {
		return text + "; not verified yet", api.Degraded
	}
	return text, mood
}

func policyOf(p api.PolicyStatus) policyView {
	v := policyView{Name: p.Name}
	if p.Tier != nil {
		v.Tier = strconv.Itoa(*p.Tier + 1)
	}
	total := 0
	for _, m := range p.Members {
		total += m.Weight
	}
	for _, m := range p.Members {
		v.Shares = append(v.Shares, share{m.Uplink, (100*m.Weight + total/2) / max(total, 1)})
	}
	return v
}

// pieces are the parts of the page that change, by the id of their element, and
// what they were made of.
type pieces struct {
	view  view
	parts map[string]string
}

// fragments makes the parts of the page that change. The long ones that say the
// same as before are not made again.
func fragments(t *template.Template, v *view, before pieces) (map[string]string, error) {
	all := map[string]string{}
	for _, name := range []string{"headline", "problems", "policies", "log", "footer"} {
		old, made := before.parts[name]
		if made && (name == "log" && slices.Equal(v.Log, before.view.Log) || name == "policies" && reflect.DeepEqual(v.Policies, before.view.Policies)) {
			all[name] = old
			continue
		}
		var b strings.Builder
		if err := t.ExecuteTemplate(&b, name, v); err != nil {
			return nil, err
		}
		all[name] = b.String()
	}
	badges := map[api.State]string{}
	for i := range v.Rows {
		r := &v.Rows[i]
		badge, made := badges[r.State]
		if !made {
			var b strings.Builder
			if err := t.ExecuteTemplate(&b, "state", r); err != nil {
				return nil, err
			}
			badge = b.String()
			badges[r.State] = badge
		}
		id := "u-" + r.Name + "-"
		all[id+"state"], all[id+"badge"] = badge, badge
		for part, text := range map[string]string{"reason": r.Reason, "since": r.Since, "interface": r.Interface, "address": r.Address, "rtt": r.RTT, "loss": r.Loss, "in": r.In, "out": r.Out, "connections": r.Connections} {
			all[id+part] = template.HTMLEscapeString(text)
		}
	}
	return all, nil
}

// message is what is sent to the pages: a line of server-sent events.
func message(n *Snapshot, h *history, changed map[string]string, whole, point bool) ([]byte, error) {
	b := []byte(`data: {"uplinks":`)
	names := make([]string, 0, len(n.Status.Uplinks))
	for _, u := range n.Status.Uplinks {
		names = append(names, u.Name)
	}
	list, err := json.Marshal(strings.Join(names, " "))
	if err != nil {
		return nil, err
	}
	parts, err := json.Marshal(changed)
	if err != nil {
		return nil, err
	}
	b = append(append(append(b, list...), `,"parts":`...), parts...)
	if point && !whole {
		b = append(b, `,"t":`...)
		b = strconv.AppendInt(b, n.Time.Unix(), 10)
		b = append(b, `,"points":{`...)
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(strconv.AppendQuote(b, name), ':')
			b = appendPoint(b, h.newest(name))
		}
		b = append(b, '}')
	}
	return append(b, "}\n\n"...), nil
}

// Publish hands over the newest snapshot. It waits for nobody. It is called by
// one goroutine.
func (s *Server) Publish(n *Snapshot) {
	s.latest.Store(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	point := s.history.add(n)
	s.encoded = nil
	if !s.streams.some() {
		s.shown = pieces{} // made again when somebody looks
		return
	}
	if err := s.refresh(n, point); err != nil {
		s.options.Log.Error("the status page cannot be made", "err", err)
	}
}

// refresh tells the open pages what has changed. The caller holds mu.
func (s *Server) refresh(n *Snapshot, point bool) error {
	v := viewOf(s.options.Version, n, s.rates)
	now, err := fragments(s.page, &v, s.shown)
	if err != nil {
		return err
	}
	changed := maps.Clone(now)
	maps.DeleteFunc(changed, func(id, text string) bool { old, ok := s.shown.parts[id]; return ok && old == text })
	s.shown = pieces{v, now}
	if !s.streams.some() {
		return nil
	}
	m, err := message(n, &s.history, changed, false, point)
	if err != nil {
		return err
	}
	s.streams.send(m)
	return nil
}

// rates are those of the newest point. The caller holds mu.
func (s *Server) rates(name string) (in, out float32) {
	p := s.history.newest(name)
	return p.in, p.out
}

// servePage shows the page, and the answer to its form.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	form := explainView{Protocol: "tcp"}
	code := http.StatusOK
	if r.URL.Path == "/explain" {
		form, code = s.explain(r)
	}
	s.mu.Lock()
	v := viewOf(s.options.Version, s.latest.Load(), s.rates)
	s.mu.Unlock()
	v.Explain = form
	var b bytes.Buffer
	if err := s.page.ExecuteTemplate(&b, "page.html", &v); err != nil {
		s.unmade(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes()) // the client has gone away
}

// unmade tells of a fault of the program.
func (s *Server) unmade(w http.ResponseWriter, err error) {
	s.options.Log.Error("the status page cannot be made", "err", err)
	http.Error(w, "internal error: see the agent's log", http.StatusInternalServerError)
}

// explain answers the form.
func (s *Server) explain(r *http.Request) (explainView, int) {
	q := r.URL.Query()
	v := explainView{From: trimmed(q.Get("from")), To: trimmed(q.Get("to")), Protocol: trimmed(q.Get("protocol"))}
	if v.From == "" || v.To == "" {
		v.Error = "Write both addresses."
		return v, http.StatusBadRequest
	}
	request, err := api.ParseExplain(v.From, v.To, v.Protocol, "", "", "", "")
	if err != nil {
		v.Error = err.Error()
		return v, http.StatusBadRequest
	}
	if !s.explaining.TryAcquire(1) {
		v.Error = "Others are asking just now: try again."
		return v, http.StatusTooManyRequests
	}
	defer s.explaining.Release(1)
	answer, err := s.options.Explain(r.Context(), request)
	if err != nil {
		v.Error = err.Error()
		return v, api.StatusCode(err)
	}
	v.Answer = &answer
	switch {
	case answer.Uplink != nil:
		v.Sentence = "It leaves by " + *answer.Uplink
		if answer.Source != nil {
			v.Sentence += ", as " + answer.Source.String()
		}
	case len(answer.Candidates) > 0:
		var names []string
		for _, c := range answer.Candidates {
			if !slices.Contains(names, c.Uplink) {
				names = append(names, c.Uplink)
			}
		}
		if v.Sentence = "It leaves by one of "; answer.Table == nil { // nor is it certain that it does
			v.Sentence = "It may leave by "
		}
		v.Sentence += strings.Join(names, ", ")
	case answer.Interface != nil:
		v.Sentence = "It leaves by " + *answer.Interface + ", which is no uplink"
	default:
		v.Sentence = "It leaves by no uplink"
	}
	v.Sentence += "."
	return v, http.StatusOK
}

// serveHistory sends the last hour; it is encoded once for all who ask.
func (s *Server) serveHistory(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	if s.encoded == nil {
		s.encoded = s.history.appendJSON(nil)
	}
	b := s.encoded
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the client has gone away
}

// trimmed bounds what is shown again.
func trimmed(text string) string {
	text = strings.TrimSpace(text)
	return text[:min(len(text), 100)]
}

func deref(a *netip.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	return *a
}

func joined(addresses ...netip.Addr) string {
	var texts []string
	for _, a := range addresses {
		if a.IsValid() {
			texts = append(texts, a.String())
		}
	}
	return strings.Join(texts, ", ")
}

func milliseconds(ms *float64) string {
	switch {
	case ms == nil:
		return "–"
	case *ms < 0.05:
		return "<0.1 ms"
	}
	return digits(*ms) + " ms"
}

func percent(p *float64) string {
	if p == nil {
		return "–"
	}
	return digits(*p) + " %"
}

// digits prints about two digits.
func digits(v float64) string {
	if v >= 9.95 || v == 0 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// bitrate prints bit/s.
func bitrate(v float32) string {
	if v != v {
		return "–"
	}
	unit := "bit/s"
	for _, u := range []string{"kbit/s", "Mbit/s", "Gbit/s"} {
		if v < 1000 {
			break
		}
		v, unit = v/1000, u
	}
	if unit == "bit/s" {
		return strconv.FormatFloat(float64(v), 'f', 0, 32) + " " + unit
	}
	return digits(float64(v)) + " " + unit
}

// span prints a length of time by its two greatest units.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	switch days := int(d.Hours()) / 24; {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}
