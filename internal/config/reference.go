package config

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Known is what there is to know about a setting before it has a value. Its
// keys are stable.
type Known struct {
	Name    string   `json:"name"`           // the variable
	Also    []string `json:"also,omitempty"` // other names of the variable
	Key     string   `json:"key"`            // in a file, where it may be cut at any underscore
	Flag    string   `json:"flag,omitempty"` // empty: it has no place on a command line
	Default string   `json:"default"`
	Values  []string `json:"values,omitempty"` // if only these are allowed
	Secret  bool     `json:"secret"`
	Group   string   `json:"group"`
	Help    string   `json:"help"`
}

// Reference returns every setting that there is, in a fixed order.
func Reference() []Known {
	settings := settingsOf(new(Config))
	all := make([]Known, 0, len(settings))
	for _, s := range settings {
		k := Known{
			Name: s.env, Also: s.also, Key: s.key(), Flag: s.flag(), Default: s.def, Values: s.oneOf,
			Secret: s.secret(), Group: s.group, Help: s.help,
		}
		if k.Group == "" {
			k.Group = "File"
		}
		all = append(all, k)
	}
	return all
}

// WriteReference prints the settings for people.
func WriteReference(w io.Writer, all []Known) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "VARIABLE\tKEY\tFLAG\tDEFAULT\tSECRET\tHELP")
	for _, k := range all {
		secret := "-"
		if k.Secret {
			secret = "yes"
		}
		help := k.Help
		if len(k.Also) > 0 {
			help += " Also " + strings.Join(k.Also, ", ") + "."
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", k.Name, k.Key, orDash(k.Flag), orDash(k.Default), secret, help)
	}
	return tw.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// WriteReferenceMarkdown prints the settings as the tables of docs/config.md.
func WriteReferenceMarkdown(w io.Writer, all []Known) error {
	group := ""
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + s + "`"
	}
	for _, k := range all {
		if k.Group != group {
			group = k.Group
			if _, err := fmt.Fprintf(w, "\n## %s\n\n| variable | key in a file | flag | default | |\n|---|---|---|---|---|\n", group); err != nil {
				return err
			}
		}
		names := make([]string, 0, 1+len(k.Also))
		for _, n := range append([]string{k.Name}, k.Also...) {
			names = append(names, code(n))
		}
		help := strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;").Replace(k.Help)
		if k.Secret {
			help += " Secret."
		}
		if _, err := fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", strings.Join(names, ", "), code(k.Key), code(k.Flag), code(k.Default), help); err != nil {
			return err
		}
	}
	return nil
}
