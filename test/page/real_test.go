package page

import (
	"net"
	"testing"

	"github.com/holdwall/outbox-relay/test/rig"
)

// With a real relay behind it: the first event, a dead letter, and its replay.
func TestRealRelay(t *testing.T) {
	b := open(t)
	r := rig.New(t, rig.Config{})
	r.Init(t)
	admin := freePort(t)
	relay := r.Serve(t, map[string]string{"ADMIN_ADDR": admin, "ADMIN_TOKEN": token, "HEALTH_INCLUDE_KAFKA": "true"})
	rig.AwaitStreaming(t, relay)

	b.visit(t, relay.HealthURL()+"/")
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Yes' && !document.querySelector('#first').hidden")
	b.await(t, "document.querySelector('#checks').innerText.includes('kafka') && document.querySelector('#checks').innerText.includes('postgres')")
	// What the page says to type is typed.
	insert, _ := b.eval(t, "return document.querySelector('#first pre').textContent").(string)
	r.Database.Exec(t, insert)
	b.await(t, "document.querySelectorAll('#recent tbody tr').length === 1 && document.querySelector('#recent').innerText.includes('OrderPlaced') && document.querySelector('#first').hidden")
	b.await(t, "document.querySelector('#slot-body').innerText.includes('held by')")

	// And so is the SQL about the slot.
	sql, _ := b.eval(t, "return [...document.querySelectorAll('#slot pre')].map((e) => e.textContent).find((t) => t.startsWith('SELECT'))").(string)
	r.Database.Exec(t, sql)

	// A row that can be no event.
	r.Database.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload, kafka_partition) VALUES ('order', 'k1', 'Lost', '{"n": 1}', 99)`)
	b.await(t, "document.querySelector('#recent').innerText.includes('dead letter: partition_range')")
	for range 20 {
		r.Insert(t, 40)
	}
	b.await(t, "document.querySelectorAll('#recent tbody tr').length === 50")
	shots(t, b, "real")
	b.visit(t, "http://"+admin+"/")
	b.await(t, "document.querySelector('#token')")
	unlock(t, b, token)
	b.await(t, "document.querySelectorAll('#letters-body tbody tr').length === 2 && document.querySelector('#letters-body').innerText.includes('Lost')")
	b.eval(t, "[...document.querySelectorAll('#letters-body button')].find((e) => e.textContent === 'Replay').click()")
	b.keys(t, enter)
	// The topic still has no such partition, and the letter stays, with the reason.
	b.await(t, "document.querySelector('#letters-outcome').innerText.includes('stays: OBX-2006')")

	// The switch: what is written while it is off comes when it is on again.
	b.eval(t, "document.querySelector('#reason').focus()")
	b.keys(t, "upgrade"+tab+enter)
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Paused' && document.querySelector('#answer-state .sub').innerText.includes('by page: upgrade')")
	r.Database.Exec(t, `INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload) VALUES ('order', 'k2', 'WrittenWhilePaused', '{}')`)
	b.eval(t, "[...document.querySelectorAll('#hand-body button')].find((e) => e.textContent === 'Resume').click()")
	b.await(t, "document.querySelector('#answer-state .say').textContent === 'Yes' && document.querySelector('#recent').innerText.includes('WrittenWhilePaused')")
	b.clean(t)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
