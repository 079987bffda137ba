// Package web shows what the agent does: metrics for Prometheus, and a page for
// people. It changes nothing and asks nobody: it is handed a Snapshot every
// second or two, whatever the number of its clients, and makes of it what they get.
//
// Whoever reaches its address may look. Browsers must be kept from looking for
// others: names that were made to point here, foreign pages and frames are turned
// away, and nothing is loaded from anywhere else.
package web
