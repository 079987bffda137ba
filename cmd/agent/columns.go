package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"multiroute/agent/api"
)

// column is one of the table of uplinks.
type column struct {
	title string
	cell  func(api.UplinkStatus) string
	brief func(api.UplinkStatus) string // in place of cell where there is little room; nil: nothing shorter
	rank  int                           // where there is little room, the highest goes first; 0: never
}

func uplinkColumns(now time.Time) []column {
	return []column{
		{title: "UPLINK", cell: func(u api.UplinkStatus) string { return u.Name }},
		{title: "STATE", cell: func(u api.UplinkStatus) string { return string(u.State) }},
		{title: "SINCE", rank: 3, cell: func(u api.UplinkStatus) string { return ago(u.Since, now) }},
		{title: "INTERFACE", rank: 9, cell: func(u api.UplinkStatus) string { return u.Interface }},
		{title: "ADDRESS", rank: 7, cell: func(u api.UplinkStatus) string { return addresses(u.Addresses) },
			brief: func(u api.UplinkStatus) string { return briefly(u.Addresses) }},
		{title: "GATEWAY", rank: 10, cell: func(u api.UplinkStatus) string { return addresses(gateways(u)) },
			brief: func(u api.UplinkStatus) string { return briefly(gateways(u)) }},
		{title: "RTT", rank: 1, cell: func(u api.UplinkStatus) string { return milliseconds(u.RTT) }},
		{title: "LOSS", rank: 2, cell: func(u api.UplinkStatus) string { return percent(u.Loss) }},
		{title: "JITTER", rank: 8, cell: func(u api.UplinkStatus) string { return milliseconds(u.Jitter) }},
		{title: "DOWNLOAD", rank: 5, cell: func(u api.UplinkStatus) string { return rate(u.RxRate) }},
		{title: "UPLOAD", rank: 5, cell: func(u api.UplinkStatus) string { return rate(u.TxRate) }},
		{title: "CONNECTIONS", rank: 4, cell: func(u api.UplinkStatus) string { return number(u.Connections) }},
		{title: "RECEIVED", rank: 12, cell: func(u api.UplinkStatus) string { return size(u.RxBytes) }},
		{title: "SENT", rank: 12, cell: func(u api.UplinkStatus) string { return size(u.TxBytes) }},
	}
}

// briefRank is the rank from which columns go before others are made brief.
const briefRank = 11

// uplinkTable is one line for each uplink, below the titles. Where it is too wide,
// the least important columns go.
func uplinkTable(uplinks []api.UplinkStatus, now time.Time, f format) []string {
	columns := uplinkColumns(now)
	for f.width > 0 && tableWidth(columns, uplinks) > f.width {
		rank := 0
		for _, c := range columns {
			rank = max(rank, c.rank)
		}
		if rank == 0 {
			break
		}
		if i := slices.IndexFunc(columns, func(c column) bool { return c.brief != nil }); i >= 0 && rank < briefRank {
			for i := range columns {
				if c := &columns[i]; c.brief != nil {
					c.cell, c.brief = c.brief, nil
				}
			}
			continue
		}
		columns = slices.DeleteFunc(columns, func(c column) bool { return c.rank == rank })
	}
	all := make([]strings.Builder, 1+len(uplinks))
	for i, c := range columns {
		width := c.width(uplinks)
		if i == len(columns)-1 {
			width = 0 // no blanks at the end
		}
		all[0].WriteString(f.paint(bold, pad(c.title, width)))
		for j, u := range uplinks {
			text := pad(c.text(u), width)
			if c.title == "STATE" {
				text = f.paint(stateColour(u.State), text)
			}
			all[1+j].WriteString(text)
		}
		if width > 0 {
			for j := range all {
				all[j].WriteString("  ")
			}
		}
	}
	lines := make([]string, len(all))
	for i := range all {
		lines[i] = all[i].String()
	}
	return lines
}

func stateColour(s api.State) string {
	switch s {
	case api.Up:
		return green
	case api.Degraded:
		return yellow
	case api.Down:
		return red
	}
	return dim
}

// text is a cell as it can be shown.
func (c column) text(u api.UplinkStatus) string { return printable(c.cell(u)) }

func (c column) width(uplinks []api.UplinkStatus) int {
	w := utf8.RuneCountInString(c.title)
	for _, u := range uplinks {
		w = max(w, utf8.RuneCountInString(c.text(u)))
	}
	return w
}

func tableWidth(columns []column, uplinks []api.UplinkStatus) int {
	total := 2 * (len(columns) - 1)
	for _, c := range columns {
		total += c.width(uplinks)
	}
	return total
}

func pad(text string, width int) string { return fmt.Sprintf("%-*s", width, text) }

// printable puts blanks for what would move a terminal's cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// wrap breaks a text at blanks into lines of at most width columns, all but the first
// one indented; words that are longer are cut into pieces. Width 0 breaks nothing.
func wrap(text string, width int) []string {
	text = printable(text)
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	const indent = "  "
	var all []string
	line, empty := "", true // empty: nothing but the indent
	next := func() {
		all = append(all, line)
		line, empty = "", true
		if width > 2*len(indent) {
			line = indent
		}
	}
	for word := range strings.FieldsSeq(text) {
		room := width - utf8.RuneCountInString(line)
		if !empty && 1+utf8.RuneCountInString(word) > room {
			next()
		} else if !empty {
			line += " "
		}
		for {
			room = width - utf8.RuneCountInString(line)
			runes := []rune(word)
			if len(runes) <= room {
				line, empty = line+word, false
				break
			}
			line, word = line+string(runes[:room]), string(runes[room:])
			next()
		}
	}
	return append(all, line)
}
