//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"multiroute/test/rig"
)

// page is the status page as a browser has it open: everything it consists of was loaded, and it is kept up to date.
type page struct {
	browser *http.Client
	cancel  context.CancelFunc
	done    chan error
	news    atomic.Int64 // how many messages came
	begin   time.Time
}

// openPage opens the agent's status page.
func openPage(ctx context.Context, a *rig.Agent) (*page, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &page{browser: a.Browser(), cancel: cancel, done: make(chan error, 1), begin: time.Now()}
	for _, path := range []string{"/", "/style.css", "/uplot.css", "/uplot.js", "/app.js", "/icon.svg", "/history"} {
		response, err := a.GetWith(ctx, p.browser, path)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		if err != nil {
			cancel()
			return nil, fmt.Errorf("opening the status page: %w", err)
		}
	}
	response, err := a.GetWith(ctx, p.browser, "/events")
	if err != nil {
		cancel()
		return nil, fmt.Errorf("keeping the status page up to date: %w", err)
	}
	go func() {
		defer response.Body.Close()
		lines := bufio.NewReader(response.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				p.done <- err
				return
			}
			if len(line) > 1 {
				p.news.Add(1)
			}
		}
	}()
	return p, nil
}

// shut closes the page. One that was not kept up to date every two seconds, more or less, is an error.
func (p *page) shut() error {
	p.cancel()
	err := <-p.done
	p.browser.CloseIdleConnections()
	if n, least := p.news.Load(), int64(time.Since(p.begin)/(2*time.Second)); n < least || !errors.Is(err, context.Canceled) {
		return fmt.Errorf("the open status page got %d messages in %v: %w", n, time.Since(p.begin), err)
	}
	return nil
}
