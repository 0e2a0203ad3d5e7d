//go:build childtag

package main

const tagged = true
