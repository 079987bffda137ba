//go:build linux

package web

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
	"multiroute/test/lab"
	"multiroute/test/rig"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

// pictures is where screenshots are put, for people; empty: nowhere.
var pictures = os.Getenv("MULTIROUTE_PICTURES")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPage: a browser looks at an agent while an uplink dies.
func TestPage(t *testing.T) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium (on Debian: apt-get install chromium)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	options := lab.Options{Uplinks: 3}
	if pictures != "" { // something to see
		options.Wires = map[int]lab.WireKind{1: lab.Line, 2: lab.Line, 3: lab.Line}
	}
	top, a := house(ctx, t, options, func(top *lab.Topology) string { return rig.Probing(top, []int{3, 2, 1}) })
	for i, u := range top.Uplinks {
		if pictures != "" {
			u.Wire().Delay(time.Duration(5+4*i) * time.Millisecond)
		}
	}
	up := func(s api.Status) bool {
		for _, u := range s.Uplinks {
			if u.State != api.Up || u.RTT == nil {
				return false
			}
		}
		return true
	}
	_, err = a.Wait(ctx, up)
	must(t, err)
	streams, err := lab.StartStreams(ctx, top.Client(), 60, lab.To(netip.AddrPortFrom(lab.InternetAddress, lab.PortTCP)), lab.StreamOptions{Interval: 20 * time.Millisecond})
	must(t, err)
	defer streams.Stop()

	b, err := start(ctx, program, filepath.Join(a.Folder, "profile"), top.Router)
	must(t, err)
	t.Cleanup(func() { _ = b.close() })
	must(t, b.size(ctx, 1280, 900, false))
	must(t, b.dark(ctx, false))
	must(t, b.call(ctx, nil, "Emulation.setTimezoneOverride", map[string]any{"timezoneId": "Pacific/Kiritimati"}))
	must(t, b.call(ctx, nil, "Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": `
		window.EventSource = class extends EventSource { constructor(url) { super(url); window.source = this; window.beforeUpdates ??= ` + clocks + `; } };
		window.refused = 0;
		window.refusing = true;
		const ask = window.fetch;
		window.fetch = async (url, ...args) => {
			if (url != "/history" || !refusing) return ask(url, ...args);
			refused++;
			return new Response("", { status: 429 });
		};
		let plot;
		Object.defineProperty(window, "uPlot", { get: () => plot, set: (original) => {
			plot = class extends original {
				constructor(...args) {
					super(...args);
					const set = this.setData;
					this.setData = (data) => { window.drawn = data[0]; set(data); };
				}
			};
		} });`}))
	must(t, b.open(ctx, "http://"+a.HTTP+"/"))
	const client = "192.168.0.10"
	names := []string{}
	for _, u := range top.Uplinks {
		names = append(names, u.Name)
	}
	first, last := names[0], names[len(names)-1]
	is := func(expression, want string) {
		t.Helper()
		if got, err := b.eval(ctx, expression); err != nil || got != want {
			t.Errorf("%s is %q, want %q (%v)", expression, got, want, err)
		}
	}
	is("[...document.querySelectorAll('tbody th b')].map(e => e.textContent).join()", strings.Join(names, ","))
	is("document.querySelectorAll('.uplot canvas').length", "9")
	must(t, b.until(ctx, "document.getElementById('live').textContent == 'live'"))
	must(t, b.until(ctx, "document.getElementById('headline').textContent.includes('All 3 uplinks are up')"))
	at(ctx, t, b, "beforeUpdates")
	is("document.getElementById('zone')", "<nil>")
	// While the history is refused, the charts begin with what is told; it is asked for again.
	must(t, b.until(ctx, "refused > 1 && window.drawn && drawn.length > 1"))
	_, err = b.eval(ctx, "window.begin = drawn[0]; refusing = false")
	must(t, err)
	must(t, b.until(ctx, "drawn[0] < begin"))
	// The charts move: their pictures change.
	picture, err := b.eval(ctx, "document.querySelector('.plot canvas').toDataURL()")
	must(t, err)
	must(t, b.until(ctx, "document.querySelector('.plot canvas').toDataURL() != "+quoted(picture)))

	// The clock is set back: what was drawn of the future goes, and the charts go on.
	must(t, b.until(ctx, "window.drawn && drawn.length > 2"))
	_, err = b.eval(ctx, "{ window.earlier = drawn.at(-1) - 100; source.onmessage({ data: JSON.stringify({ uplinks: document.body.dataset.uplinks, parts: {}, t: earlier, points: {} }) }); }")
	must(t, err)
	must(t, b.until(ctx, "drawn.indexOf(earlier) == 0 && drawn.length > 1"))

	must(t, top.Uplinks[0].Provider.Blackhole(true))
	must(t, b.until(ctx, "document.getElementById('u-"+first+"-state').textContent == 'down'"))
	must(t, b.until(ctx, "document.getElementById('headline').textContent.includes('"+first+" is down')"))
	must(t, b.until(ctx, "document.getElementById('log').textContent.includes('no answer')"))
	at(ctx, t, b, clocks)
	must(t, b.until(ctx, "![...document.querySelectorAll('.policy li span')].some(e => e.textContent == '"+first+"')"))

	// The form, without leaving the page.
	must(t, fill(ctx, b, client, "198.51.100.77:443"))
	must(t, b.until(ctx, "document.querySelector('#answer .sentence')"))
	is("location.pathname", "/")
	is("document.querySelector('#answer ol').childElementCount > 1", "true")
	must(t, fill(ctx, b, "nonsense", "1.1.1.1"))
	must(t, b.until(ctx, "document.querySelector('#answer .bad') && !document.querySelector('#answer .sentence')"))
	must(t, fill(ctx, b, client, "198.51.100.77:443"))
	must(t, b.until(ctx, "document.querySelector('#answer .sentence')"))

	// It fits a phone, and larger screens.
	for _, width := range []int{320, 390, 768, 1280, 1920} {
		must(t, b.size(ctx, width, 844, width < 700))
		must(t, b.until(ctx, "document.documentElement.scrollWidth <= innerWidth"))
	}
	if pictures != "" {
		must(t, top.Uplinks[1].Provider.Break(lab.Fault{Percent: 4, Way: lab.FromCustomer}))
		shoot(ctx, t, b)
		must(t, top.Uplinks[1].Provider.Break())
	}

	// Another configuration: the page follows.
	must(t, b.size(ctx, 1280, 900, false))
	text := rig.Probing(top, []int{3, 2, 1})
	_, err = b.eval(ctx, "Math.random = () => 0.5")
	must(t, err)
	must(t, a.Reconfigure(ctx, text[:strings.Index(text, "[uplink."+last+"]")]))
	must(t, b.until(ctx, "document.getElementById('live').textContent.includes('loading')")) // not all pages at once
	must(t, b.until(ctx, "document.querySelectorAll('tbody th b').length == 2"))

	for _, kind := range []string{"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} {
		for _, e := range b.so(kind) {
			if !strings.Contains(string(e), "/explain") { // a refused question is an answer, too
				t.Errorf("%s: %s", kind, e)
			}
		}
	}
	for _, e := range b.so("Network.requestWillBeSent") {
		var r struct{ Request struct{ URL string } }
		must(t, json.Unmarshal(e, &r))
		if !strings.HasPrefix(r.Request.URL, "http://"+a.HTTP+"/") && r.Request.URL != "about:blank" {
			t.Errorf("the page asks for %s", r.Request.URL)
		}
	}

	// Without scripts the table is there, and the form works.
	must(t, b.call(ctx, nil, "Emulation.setScriptExecutionDisabled", map[string]any{"value": true}))
	must(t, b.open(ctx, "http://"+a.HTTP+"/explain?from="+client+"&to=1.1.1.1:443&protocol=tcp"))
	is("document.getElementById('u-"+first+"-state').textContent", "down")
	is("document.getElementById('charts').hidden", "true")
	is("!!document.querySelector('#answer .sentence')", "true")
	is("document.querySelector('#log li .why').textContent != ''", "true")
	is("document.getElementById('zone').textContent", time.Now().Format("UTC-07:00"))
}

// clocks is what the log says of times, and when that was.
const clocks = "[...document.querySelectorAll('#log time')].map(e => e.dateTime + ' is ' + e.textContent).join('\\n')"

// at checks that clocks are those of a browser in Kiritimati.
func at(ctx context.Context, t *testing.T, b *browser, expression string) {
	t.Helper()
	text, err := b.eval(ctx, expression)
	must(t, err)
	for line := range strings.SplitSeq(text, "\n") {
		when, got, _ := strings.Cut(line, " is ")
		at, err := time.Parse(time.RFC3339, when)
		must(t, err)
		if want := at.In(time.FixedZone("", 14*60*60)).Format("2 Jan 15:04:05"); got != want {
			t.Errorf("%s is shown as %q, want %q", when, got, want)
		}
	}
}

// fill fills the form in and sends it.
func fill(ctx context.Context, b *browser, from, to string) error {
	_, err := b.eval(ctx, "{ const f = document.querySelector('form'); document.getElementById('answer').replaceChildren(); f.from.value = "+quoted(from)+
		"; f.to.value = "+quoted(to)+"; f.requestSubmit(); }")
	return err
}

func quoted(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		return `""`
	}
	return string(b)
}

// shoot takes pictures for people.
func shoot(ctx context.Context, t *testing.T, b *browser) {
	t.Helper()
	for _, s := range []struct {
		name          string
		width, height int
		dark, phone   bool
	}{
		{"light", 1280, 900, false, false},
		{"dark", 1280, 900, true, false},
		{"phone", 390, 844, false, true},
		{"phone-dark", 390, 844, true, true},
	} {
		must(t, b.size(ctx, s.width, 4000, s.phone)) // all charts are seen
		must(t, b.dark(ctx, s.dark))
		select {
		case <-time.After(8 * time.Second): // charts are drawn
		case <-ctx.Done():
		}
		height, err := b.eval(ctx, "document.body.offsetHeight")
		must(t, err)
		pixels, err := strconv.Atoi(height)
		must(t, err)
		must(t, b.size(ctx, s.width, pixels, s.phone))
		must(t, b.screenshot(ctx, filepath.Join(pictures, s.name+".png"), true))
	}
	must(t, b.dark(ctx, false))
}
