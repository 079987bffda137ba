package config

import _ "embed"

// Reference is a configuration with every key of the contract, its default and
// an explanation. Keys without behaviour are commented out, as #key = value.
//
//go:embed reference.toml
var Reference string

// Minimal is a short configuration to begin with.
//
//go:embed minimal.toml
var Minimal string
