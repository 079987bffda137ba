package doctor

// features names what the kernel lacks.
func features(f *Facts) []Finding {
	var all []Finding
	for _, m := range f.Missing {
		all = append(all, finding(Error, "kernel", "load the modules, or take a kernel with "+m.Option, "it has no %s", m.Name))
	}
	return all
}
