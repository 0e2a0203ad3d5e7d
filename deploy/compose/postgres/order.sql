-- One order and its event, in one transaction; one in twenty is rolled back.
SELECT (random() < 0.05)::text AS fails, (random() * 100)::int AS customer, (random() * 10000)::int AS cents \gset
BEGIN;
INSERT INTO outbox.events (aggregatetype, aggregateid, type, payload)
VALUES ('order', 'customer-' || :'customer', 'OrderPlaced', jsonb_build_object('customer', :customer, 'cents', :cents));
\if :fails
ROLLBACK;
\else
COMMIT;
\endif
