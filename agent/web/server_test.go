package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"multiroute/agent/api"
)

// served returns a server that shows n.
func served(t *testing.T, n *Snapshot) *Server {
	t.Helper()
	s, err := New(Options{Address: netip.MustParseAddrPort("127.0.0.1:9780"), Version: "test",
		Explain: func(_ context.Context, r api.ExplainRequest) (api.Explanation, error) {
			switch r.To.String() {
			case "8.8.8.1":
				return api.Explanation{}, fmt.Errorf("asking: %w", &api.Error{Code: http.StatusBadRequest, Text: "say by which interface"})
			case "8.8.8.2":
				return api.Explanation{}, api.ErrBusy
			case "8.8.8.3":
				return api.Explanation{}, errors.New("no memory")
			case "8.8.8.4":
				return api.Explanation{Candidates: []api.MemberStatus{{Uplink: "dsl", Weight: 3}, {Uplink: "lte", Weight: 1}, {Uplink: "dsl", Weight: 1}}, Agrees: true}, nil
			case "8.8.8.5":
				return api.Explanation{Candidates: []api.MemberStatus{{Uplink: "dsl", Weight: 3}, {Uplink: "lte", Weight: 1}}, Table: ptr(20003), Agrees: true}, nil
			}
			return api.Explanation{Uplink: ptr("dsl"), Policy: ptr("default"), Agrees: true, Why: []string{"It comes in by <eth0>, from " + r.From.String() + "."}}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	if n != nil {
		s.Publish(n)
	}
	return s
}

func get(t *testing.T, h http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	return ask(t, h, http.MethodGet, path, headers...)
}

func ask(t *testing.T, h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1:9780"+path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		configured, host string
		local            string // the address that was called
		ok               bool
	}{
		{"127.0.0.1:9780", "127.0.0.1:9780", "", true},
		{"127.0.0.1:9780", "127.0.0.1", "", true},
		{"127.0.0.1:9780", "localhost:8080", "", true}, // through a tunnel
		{"127.0.0.1:9780", "LOCALHOST", "", true},
		{"127.0.0.1:9780", "[::1]:9780", "", true},
		{"127.0.0.1:9780", "127.0.0.2:9780", "", false},
		{"127.0.0.1:9780", "evil.example:9780", "", false},
		{"127.0.0.1:9780", "localhost.evil.example", "", false},
		{"127.0.0.1:9780", "127.0.0.1.evil.example", "", false},
		{"127.0.0.1:9780", "", "", false},
		{"127.0.0.1:9780", "[::1", "", true}, // still nobody's name
		{"192.168.0.1:80", "192.168.0.1", "192.168.0.1", true},
		{"192.168.0.1:80", "192.168.0.2", "192.168.0.1", false},
		{"0.0.0.0:80", "192.168.0.1", "192.168.0.1", true},
		{"0.0.0.0:80", "192.168.0.2", "192.168.0.1", false},
		{"0.0.0.0:80", "router.example", "192.168.0.1", false},
		{"[::]:80", "192.168.0.1", "::ffff:192.168.0.1", true},
		{"[::]:80", "[fd00::1]", "fd00::1", true},
	} {
		s, err := New(Options{Address: netip.MustParseAddrPort(tt.configured)})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Host = tt.host
		if tt.local != "" {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(tt.local)}))
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if ok := w.Code == http.StatusOK; ok != tt.ok || !ok && w.Code != http.StatusMisdirectedRequest {
			t.Errorf("%s is asked for %q: %d", tt.configured, tt.host, w.Code)
		}
	}
}

func TestForeignPages(t *testing.T) {
	t.Parallel()
	s := served(t, sample())
	for _, tt := range []struct {
		name    string
		headers []string
		code    int
	}{
		{"curl", nil, 200},
		{"own page", []string{"Origin", "http://127.0.0.1:9780", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 200},
		{"typed", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		{"link", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		{"frame", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
		{"image", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, 403},
		{"another port", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors"}, 403},
		{"origin", []string{"Origin", "http://evil.example"}, 403},
		{"no origin", []string{"Origin", "null"}, 403},
		{"empty origin", []string{"Origin", ""}, 403},
		{"https origin", []string{"Origin", "https://127.0.0.1:9780"}, 403},
	} {
		if w := get(t, s, "/metrics", tt.headers...); w.Code != tt.code {
			t.Errorf("%s: %d, want %d", tt.name, w.Code, tt.code)
		} else if w.Code != 200 && strings.Contains(w.Body.String(), "dsl") {
			t.Errorf("%s: something is told", tt.name)
		}
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	s := served(t, sample())
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"} {
		for path := range s.routes {
			if w := ask(t, s, method, path); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
	if w := ask(t, s, http.MethodHead, "/metrics"); w.Code != 200 {
		t.Errorf("HEAD: %d", w.Code)
	}
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:9780/metrics", strings.NewReader("x"))
	w := httptest.NewRecorder()
	if s.ServeHTTP(w, r); w.Code != http.StatusBadRequest {
		t.Errorf("GET with a body: %d", w.Code)
	}
	if w := get(t, s, "/nothing"); w.Code != http.StatusNotFound {
		t.Errorf("an unknown path: %d", w.Code)
	}
}

// TestHeaders: every answer carries them, refusals too.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s := served(t, sample())
	answers := []*httptest.ResponseRecorder{get(t, s, "/nothing"), ask(t, s, "POST", "/"), get(t, s, "/", "Origin", "http://evil.example"), get(t, s, "/", "Host", "evil.example")}
	for path := range s.routes {
		if path != "/events" { // has no end
			answers = append(answers, get(t, s, path))
		}
	}
	for _, w := range answers {
		h := w.Header()
		csp := h.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") ||
			h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" || h.Get("X-Frame-Options") != "DENY" ||
			h.Get("Cross-Origin-Resource-Policy") != "same-origin" || h.Get("Content-Type") == "" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%d: %v", w.Code, h)
		}
	}
}

// TestTooMany: requests have a rate, and the rest of the agent its CPU.
func TestTooMany(t *testing.T) {
	t.Parallel()
	s := served(t, sample())
	s.limits.penalty = time.Microsecond
	codes := map[int]int{}
	for range 500 {
		w := get(t, s, "/metrics")
		codes[w.Code]++
		if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
			t.Error("nobody says when to try again")
		}
	}
	if codes[200] < 10 || codes[200] > 100 || codes[200]+codes[429] != 500 {
		t.Errorf("%v", codes)
	}
}
