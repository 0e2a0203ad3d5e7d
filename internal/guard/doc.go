// Package guard watches what the relay's slot does to the server, and warns
// before anything is lost.
//
// Its job: every replica asks Postgres every few seconds over a plain
// connection of its own, whether it leads, stands by, is halted or has Kafka
// switched off, and keeps one picture, the View: how much WAL the slot holds
// back, how long until Postgres gives it up, who reads it, which other slots are
// leftovers of this relay, and what of that a person should act on. Health
// checks, metrics, the status page and the commands show this picture.
//
// Invariants: the guard never opens a replication connection, never takes,
// moves or drops a slot, and never stops the relay. Its statements are short,
// have a time-out on the server as well, and read catalogs only. What it says
// has a code, a reason and something to type. It logs when a finding comes and
// when it goes, not each time it looks.
//
// It leaves to others: deciding whether a slot can be streamed from
// (replication), and what the relay does (internal/relay).
package guard
