package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestSetUplink(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	h := &fakeHandler{uplink: func(_ context.Context, name string, enabled bool, d time.Duration) error {
		asked <- fmt.Sprint(name, " ", enabled, " ", d)
		return nil
	}}
	c := startServer(t, h, nil).client("root")
	for _, tt := range []struct {
		name    string
		enabled bool
		d       time.Duration
		want    string
	}{
		{"dsl", false, 0, "dsl false 0s"},
		{"4g_X-1", false, 90*time.Minute + time.Millisecond, "4g_X-1 false 1h30m0.001s"},
		{"dsl", true, 0, "dsl true 0s"},
		{"a&for=1h b%/?#", false, 0, "a&for=1h b%/?# false 0s"},
	} {
		if err := c.SetUplink(t.Context(), tt.name, tt.enabled, tt.d); err != nil {
			t.Errorf("%s: %v", tt.want, err)
		} else if got := <-asked; got != tt.want {
			t.Errorf("asked %q, want %q", got, tt.want)
		}
	}
}

// What is not understood in whole changes nothing.
func TestSetUplinkParameters(t *testing.T) {
	t.Parallel()
	h := &fakeHandler{}
	c := startServer(t, h, nil).client("root")
	for query, want := range map[string]string{
		"/disable":                     "the parameter name is missing: write the name of an uplink",
		"/disable?name=":               "the parameter name is missing: write the name of an uplink",
		"/disable?name=a&name=b":       `the parameter "name" stands there twice: remove one`,
		"/disable?name=a&fro=10m":      `unknown parameter "fro": known are name and, for disable, for`,
		"/enable?name=a&for=10m":       `unknown parameter "for": known are name and, for disable, for`,
		"/disable?name=a&for=10":       `for is "10": write a time above 0 with its unit, such as "10m"`,
		"/disable?name=a&for=":         `for is "": write a time above 0 with its unit, such as "10m"`,
		"/disable?name=a&for=-1s":      `for is "-1s": write a time above 0 with its unit, such as "10m"`,
		"/disable?name=a&for=1s&for=1": `the parameter "for" stands there twice: remove one`,
		"/disable?name=%zz":            `the parameters behind the ? are no parameters: invalid URL escape "%zz"`,
		"/disable?name=a;for=10m":      "the parameters behind the ? are no parameters: invalid semicolon separator in query",
	} {
		_, err := c.do(t.Context(), http.MethodPost, "/v1/uplink"+query)
		var e *Error
		if !errors.As(err, &e) || e.Code != http.StatusBadRequest || e.Text != want {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
	if n := h.changes.Load(); n != 0 {
		t.Errorf("the handler was asked %d times", n)
	}
}
