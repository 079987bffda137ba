package doctor

// Service is what is known of the boot service.
type Service struct {
	Systemd  bool   // systemd runs the machine
	Unit     string // its file; "": there is none
	Enabled  bool
	Folder   string // for the runtime files
	NoFolder string // why it cannot be written; "": it can
}

// boot looks at the daemon, and at whether it comes back after a boot.
func boot(f *Facts) []Finding {
	var all []Finding
	d, s := f.Daemon, f.Service
	switch {
	case d.Other != "":
		all = append(all, finding(Error, "agent", "stop it, or give --config of its configuration", "%s", d.Other))
	case d.Running && !d.Ready:
		all = append(all, finding(Error, "agent", "its log says why", "it runs, and the kernel does not hold what it wants yet"))
	case !d.Running:
		start := "agent run"
		if s.Systemd && s.Unit != "" {
			start = "systemctl start multiroute"
		}
		all = append(all, finding(Note, "agent", start, "it does not run"))
	}
	if d.ConfigError != "" {
		all = append(all, finding(Warning, "agent", "agent check, then agent reload", "it runs with an older configuration: %s", d.ConfigError))
	}
	for _, w := range d.Warnings {
		all = append(all, finding(Warning, "agent", "as it says; where it does not: the agent's log, and "+more, "it says: %s", w))
	}
	if s.NoFolder != "" {
		all = append(all, finding(Error, s.Folder, "mount it writable, or name another folder with [api] socket", "the agent cannot put its socket and files there: %s", s.NoFolder))
	}
	if s.Systemd && s.Unit != "" && !s.Enabled {
		all = append(all, finding(Warning, "multiroute.service", "systemctl enable multiroute", "it is not started at boot"))
	}
	return all
}
