//go:build linux

package web

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"multiroute/test/lab"
	"multiroute/test/rig"
)

// TestKeyboard: who has a keyboard only, or a program that reads the page aloud,
// gets everywhere, and everything there has a name.
func TestKeyboard(t *testing.T) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium (on Debian: apt-get install chromium)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	top, a := house(ctx, t, lab.Options{}, func(top *lab.Topology) string { return rig.Config(top, nil) })
	b, err := start(ctx, program, filepath.Join(a.Folder, "profile"), top.Router)
	must(t, err)
	t.Cleanup(func() { _ = b.close() })
	must(t, b.size(ctx, 1280, 900, false))
	must(t, b.open(ctx, "http://"+a.HTTP+"/"))
	must(t, b.until(ctx, "document.getElementById('live').textContent == 'live'"))

	order := []string{"To the uplinks", "range", "from", "to", "protocol", "Explain", "Metrics"}
	var reached []string
	for range order {
		must(t, b.press(ctx, "Tab", 9))
		e, err := b.eval(ctx, "(e => e.name || e.textContent.trim())(document.activeElement)")
		must(t, err)
		reached = append(reached, e)
		marked, err := b.eval(ctx, "(e => { const s = getComputedStyle(e.type == 'radio' ? e.nextElementSibling : e); return s.outlineStyle != 'none' && parseFloat(s.outlineWidth) > 0 })(document.activeElement)")
		must(t, err)
		if marked != "true" {
			t.Errorf("nothing shows that %q has the focus", e)
		}
		switch e {
		case "from":
			must(t, b.call(ctx, nil, "Input.insertText", map[string]any{"text": "192.168.0.10"}))
		case "to":
			must(t, b.call(ctx, nil, "Input.insertText", map[string]any{"text": "1.1.1.1:443"}))
		}
		if e == "Explain" {
			must(t, b.press(ctx, "Enter", 13))
			must(t, b.until(ctx, "document.querySelector('#answer .sentence')"))
		}
	}
	if !slices.Equal(reached, order) {
		t.Errorf("the Tab key reaches %q, want %q", reached, order)
	}

	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value any }
		}
	}
	must(t, b.call(ctx, &tree, "Accessibility.getFullAXTree", nil))
	found := map[string]int{}
	for _, n := range tree.Nodes {
		role, _ := n.Role.Value.(string)
		name, _ := n.Name.Value.(string)
		if n.Ignored || !slices.Contains([]string{"link", "radio", "textbox", "combobox", "button", "image", "img", "meter", "columnheader", "rowheader", "table", "region"}, role) {
			continue
		}
		found[role]++
		if role != "table" && strings.TrimSpace(name) == "" {
			t.Errorf("a %s has no name", role)
		}
	}
	for _, role := range []string{"link", "radio", "textbox", "combobox", "button", "meter", "columnheader", "rowheader"} {
		if found[role] == 0 {
			t.Errorf("no %s among what is read aloud: %v", role, found)
		}
	}
}

// press presses a key and lets it go.
func (b *browser) press(ctx context.Context, key string, code int) error {
	down := map[string]any{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code}
	if key == "Enter" {
		down["text"] = "\r"
	}
	if err := b.call(ctx, nil, "Input.dispatchKeyEvent", down); err != nil {
		return err
	}
	return b.call(ctx, nil, "Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code})
}
