//go:build linux

// Package web shows the status page of a real agent to a real browser.
package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"multiroute/test/lab"
)

// browser is a headless Chromium, driven by the DevTools protocol over a pipe.
type browser struct {
	cmd     *exec.Cmd
	in      *os.File
	session string

	mu      sync.Mutex
	last    int
	waiting map[int]chan reply
	events  []event // console messages, failures, requests
	err     error   // why it ended
}

type reply struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// event is something that the browser tells by itself.
type event struct {
	Method string
	Params json.RawMessage
}

// start starts Chromium in a namespace, with an empty profile in folder, and
// opens a page.
func start(ctx context.Context, program, folder string, ns *lab.NS) (*browser, error) {
	fromUs, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, toUs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer fromUs.Close()
	defer toUs.Close()
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir="+folder, "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{fromUs, toUs} // 3 and 4, as Chromium expects
	cmd.Env = append(os.Environ(), "HOME="+folder)
	if err := ns.Start(cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	b := &browser{cmd: cmd, in: in, waiting: map[int]chan reply{}}
	go b.read(out)
	var target struct{ TargetID string }
	if err := b.call(ctx, &target, "Target.createTarget", map[string]any{"url": "about:blank"}); err != nil {
		return nil, errors.Join(err, b.close())
	}
	var session struct{ SessionID string }
	if err := b.call(ctx, &session, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}); err != nil {
		return nil, errors.Join(err, b.close())
	}
	b.session = session.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		if err := b.call(ctx, nil, domain+".enable", nil); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	return b, nil
}

func (b *browser) close() error {
	_ = b.cmd.Process.Kill() // it has nothing to save
	_ = b.cmd.Wait()
	return b.in.Close()
}

// read takes in what the browser says, until it ends.
func (b *browser) read(out *os.File) {
	defer out.Close()
	r := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := r.ReadBytes(0)
		var m struct {
			ID int
			reply
			event
		}
		if err == nil {
			err = json.Unmarshal(line[:len(line)-1], &m)
		}
		b.mu.Lock()
		switch {
		case err != nil:
			b.err = fmt.Errorf("the browser ended: %w", err)
			for _, c := range b.waiting {
				close(c)
			}
			b.waiting = nil
		case m.ID != 0 && b.waiting[m.ID] != nil:
			b.waiting[m.ID] <- m.reply
			delete(b.waiting, m.ID)
		case m.Method != "":
			b.events = append(b.events, m.event)
		}
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// call has the browser do something.
func (b *browser) call(ctx context.Context, result any, method string, params map[string]any) error {
	c := make(chan reply, 1)
	b.mu.Lock()
	if b.err != nil {
		b.mu.Unlock()
		return b.err
	}
	b.last++
	message := map[string]any{"id": b.last, "method": method}
	if params != nil {
		message["params"] = params
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	b.waiting[b.last] = c
	b.mu.Unlock()
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if _, err := b.in.Write(append(text, 0)); err != nil {
		return err
	}
	select {
	case r, ok := <-c:
		switch {
		case !ok:
			return b.err
		case r.Error != nil:
			return fmt.Errorf("%s: %s", method, r.Error.Message)
		case result != nil:
			return json.Unmarshal(r.Result, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

// so returns what the browser said by itself so far, of one kind.
func (b *browser) so(method string) []json.RawMessage {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []json.RawMessage
	for _, e := range b.events {
		if e.Method == method {
			all = append(all, e.Params)
		}
	}
	return all
}

// eval evaluates an expression in the page and returns its value as text.
func (b *browser) eval(ctx context.Context, expression string) (string, error) {
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Text string }
	}
	err := b.call(ctx, &r, "Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true})
	if err == nil && r.ExceptionDetails != nil {
		err = fmt.Errorf("%s: %s", expression, r.ExceptionDetails.Text)
	}
	return fmt.Sprint(r.Result.Value), err
}

// until waits for an expression to be true in the page, 15 s at most.
func (b *browser) until(ctx context.Context, expression string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		value, err := b.eval(ctx, "!!("+expression+")")
		if value == "true" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %s, %w", expression, value, errors.Join(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// open opens an address and waits until the page is there.
func (b *browser) open(ctx context.Context, url string) error {
	var r struct{ ErrorText string }
	if err := b.call(ctx, &r, "Page.navigate", map[string]any{"url": url}); err != nil {
		return err
	}
	if r.ErrorText != "" {
		return fmt.Errorf("opening %s: %s", url, r.ErrorText)
	}
	return b.until(ctx, "document.readyState == 'complete' && location.href != 'about:blank'")
}

// size sets how large the window is, in CSS pixels, and whether it is a phone.
func (b *browser) size(ctx context.Context, width, height int, phone bool) error {
	scale := 1
	if phone {
		scale = 2
	}
	return b.call(ctx, nil, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone})
}

// dark chooses the colours that the user likes.
func (b *browser) dark(ctx context.Context, on bool) error {
	value := "light"
	if on {
		value = "dark"
	}
	return b.call(ctx, nil, "Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": value}}})
}

// screenshot writes a picture of the page, whole or as far as it fits the window.
func (b *browser) screenshot(ctx context.Context, path string, whole bool) error {
	var r struct{ Data []byte }
	if err := b.call(ctx, &r, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": whole}); err != nil {
		return err
	}
	return os.WriteFile(path, r.Data, 0o644)
}
