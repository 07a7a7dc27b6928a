CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE "organizations" (
	id TEXT NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	"plan" TEXT DEFAULT '' NOT NULL, 
	plan_ends_at_s DOUBLE DEFAULT '0' NOT NULL, 
	models TEXT DEFAULT '[]' NOT NULL, 
	endpoints TEXT DEFAULT '[]' NOT NULL, 
	limits TEXT DEFAULT '{}' NOT NULL, 
	status TEXT DEFAULT 'active' NOT NULL, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE teams (
	id TEXT NOT NULL, 
	organization_id TEXT DEFAULT '' NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	"plan" TEXT DEFAULT '' NOT NULL, 
	plan_ends_at_s DOUBLE DEFAULT '0' NOT NULL, 
	models TEXT DEFAULT '[]' NOT NULL, 
	endpoints TEXT DEFAULT '[]' NOT NULL, 
	limits TEXT DEFAULT '{}' NOT NULL, 
	status TEXT DEFAULT 'active' NOT NULL, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE users (
	id TEXT NOT NULL, 
	organization_id TEXT DEFAULT '' NOT NULL, 
	team_id TEXT DEFAULT '' NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	role TEXT DEFAULT 'member' NOT NULL, 
	"plan" TEXT DEFAULT '' NOT NULL, 
	plan_ends_at_s DOUBLE DEFAULT '0' NOT NULL, 
	models TEXT DEFAULT '[]' NOT NULL, 
	endpoints TEXT DEFAULT '[]' NOT NULL, 
	limits TEXT DEFAULT '{}' NOT NULL, 
	status TEXT DEFAULT 'active' NOT NULL, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE plans (
	id TEXT NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	priority TEXT DEFAULT 'normal' NOT NULL, 
	models TEXT DEFAULT '[]' NOT NULL, 
	endpoints TEXT DEFAULT '[]' NOT NULL, 
	limits TEXT DEFAULT '{}' NOT NULL, 
	budgets TEXT DEFAULT '[]' NOT NULL, 
	status TEXT DEFAULT 'active' NOT NULL, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE keys (
	id TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	hint TEXT DEFAULT '' NOT NULL, 
	lineage TEXT DEFAULT '' NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	organization_id TEXT DEFAULT '' NOT NULL, 
	team_id TEXT DEFAULT '' NOT NULL, 
	user_id TEXT DEFAULT '' NOT NULL, 
	"plan" TEXT DEFAULT '' NOT NULL, 
	plan_ends_at_s DOUBLE DEFAULT '0' NOT NULL, 
	models TEXT DEFAULT '[]' NOT NULL, 
	endpoints TEXT DEFAULT '[]' NOT NULL, 
	limits TEXT DEFAULT '{}' NOT NULL, 
	status TEXT DEFAULT 'active' NOT NULL, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	priority TEXT DEFAULT '' NOT NULL, 
	billing TEXT DEFAULT 'none' NOT NULL, 
	allowed_ips TEXT DEFAULT '[]' NOT NULL, 
	denied_ips TEXT DEFAULT '[]' NOT NULL, 
	rotated_from TEXT DEFAULT '' NOT NULL, 
	starts_at_s DOUBLE DEFAULT '0' NOT NULL, 
	expires_at_s DOUBLE DEFAULT '0' NOT NULL, 
	revoked_at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
CREATE TABLE budgets (
	account TEXT NOT NULL, 
	scope TEXT DEFAULT '' NOT NULL, 
	scope_id TEXT DEFAULT '' NOT NULL, 
	unit TEXT DEFAULT '' NOT NULL, 
	period TEXT DEFAULT '' NOT NULL, 
	amount BIGINT, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (account)
);
CREATE TABLE ledger_owners (
	id INTEGER NOT NULL, 
	name TEXT DEFAULT '' NOT NULL, 
	started_at_s DOUBLE DEFAULT '0' NOT NULL, 
	seen_at_s DOUBLE DEFAULT '0' NOT NULL, 
	ended_at_s DOUBLE DEFAULT '0' NOT NULL, 
	applied BIGINT DEFAULT '0' NOT NULL, currency TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE ledger_paths (
	id INTEGER NOT NULL, 
	balances TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (balances)
);
CREATE TABLE usage_records (
	id INTEGER NOT NULL, 
	request_id TEXT DEFAULT '' NOT NULL, 
	at_s DOUBLE DEFAULT '0' NOT NULL, 
	key_id TEXT DEFAULT '' NOT NULL, 
	key_name TEXT DEFAULT '' NOT NULL, 
	user_id TEXT DEFAULT '' NOT NULL, 
	team_id TEXT DEFAULT '' NOT NULL, 
	organization_id TEXT DEFAULT '' NOT NULL, 
	"plan" TEXT DEFAULT '' NOT NULL, 
	priority TEXT DEFAULT '' NOT NULL, 
	model TEXT DEFAULT '' NOT NULL, 
	method TEXT DEFAULT '' NOT NULL, 
	endpoint TEXT DEFAULT '' NOT NULL, 
	is_stream BOOLEAN DEFAULT '0' NOT NULL, 
	status INTEGER DEFAULT '0' NOT NULL, 
	termination_reason TEXT DEFAULT '' NOT NULL, 
	code TEXT DEFAULT '' NOT NULL, 
	backend TEXT DEFAULT '' NOT NULL, 
	backend_url TEXT DEFAULT '' NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	prompt_tokens BIGINT, 
	completion_tokens BIGINT, 
	cached_tokens BIGINT, 
	usage_source TEXT, 
	cost_nano BIGINT DEFAULT '0' NOT NULL, 
	duration_ms DOUBLE DEFAULT '0' NOT NULL, 
	first_token_ms DOUBLE, 
	tags TEXT DEFAULT '[]' NOT NULL, 
	total_tokens BIGINT GENERATED ALWAYS AS (prompt_tokens + completion_tokens) VIRTUAL, 
	timestamp TEXT GENERATED ALWAYS AS (strftime('%Y-%m-%dT%H:%M:%fZ', at_s, 'unixepoch')) VIRTUAL, currency TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE usage_days (
	key_id TEXT NOT NULL, 
	day INTEGER NOT NULL, 
	requests BIGINT DEFAULT '0' NOT NULL, 
	prompt_tokens BIGINT DEFAULT '0' NOT NULL, 
	completion_tokens BIGINT DEFAULT '0' NOT NULL, 
	cost_nano BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (key_id, day)
)
 WITHOUT ROWID

;
CREATE TABLE kept_answers (
	id TEXT NOT NULL, 
	fingerprint TEXT DEFAULT '' NOT NULL, 
	state TEXT DEFAULT 'running' NOT NULL, 
	owner BIGINT DEFAULT '0' NOT NULL, 
	answer BLOB, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	expires_at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE counters (
	name TEXT NOT NULL, 
	value BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE usage_outbox (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	event_id TEXT DEFAULT '' NOT NULL, 
	reporter TEXT DEFAULT '' NOT NULL, 
	payload TEXT DEFAULT '' NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	due_at_s DOUBLE DEFAULT '0' NOT NULL, 
	record BIGINT DEFAULT '0' NOT NULL, 
	currency TEXT DEFAULT '' NOT NULL
);
CREATE TABLE unbilled_usage (
	organization_id TEXT NOT NULL, 
	month BIGINT NOT NULL, 
	user_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	currency TEXT NOT NULL, 
	requests BIGINT DEFAULT '0' NOT NULL, 
	prompt_tokens BIGINT DEFAULT '0' NOT NULL, 
	cached_tokens BIGINT DEFAULT '0' NOT NULL, 
	completion_tokens BIGINT DEFAULT '0' NOT NULL, 
	cost_nano BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (organization_id, month, user_id, model, currency)
)
 WITHOUT ROWID

;
CREATE TABLE store_facts (
	name TEXT NOT NULL, 
	value TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE ledger_balances (
	id INTEGER NOT NULL, 
	account TEXT DEFAULT '' NOT NULL, 
	unit TEXT DEFAULT '' NOT NULL, 
	period TEXT DEFAULT '' NOT NULL, 
	starts_at_s BIGINT DEFAULT '0' NOT NULL, 
	granted BIGINT DEFAULT '0' NOT NULL, 
	held BIGINT DEFAULT '0' NOT NULL, 
	used BIGINT DEFAULT '0' NOT NULL, 
	overdraft BIGINT DEFAULT '0' NOT NULL, 
	limited BIGINT DEFAULT '0' NOT NULL, 
	changes BIGINT DEFAULT '0' NOT NULL, 
	owed BIGINT DEFAULT '0' NOT NULL, 
	apart BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT ledger_balances_figures CHECK (granted >= 0 AND held >= 0 AND used >= 0 AND overdraft >= 0 AND owed >= 0 AND apart >= -1 AND used + held <= granted + overdraft)
);
CREATE TABLE ledger_entries (
	id INTEGER NOT NULL, 
	batch BIGINT DEFAULT '0' NOT NULL, 
	kind TEXT DEFAULT '' NOT NULL, 
	hold TEXT DEFAULT '' NOT NULL, 
	step INTEGER, 
	path BIGINT DEFAULT '0' NOT NULL, 
	tokens BIGINT DEFAULT '0' NOT NULL, 
	cost_nano BIGINT DEFAULT '0' NOT NULL, 
	released_tokens BIGINT DEFAULT '0' NOT NULL, 
	released_cost_nano BIGINT DEFAULT '0' NOT NULL, 
	owner BIGINT DEFAULT '0' NOT NULL, 
	at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT ledger_entries_amounts CHECK (tokens >= 0 AND cost_nano >= 0 AND released_tokens >= 0 AND released_cost_nano >= 0)
);
CREATE TABLE ledger_holds (
	hold TEXT NOT NULL, 
	path BIGINT DEFAULT '0' NOT NULL, 
	tokens BIGINT DEFAULT '0' NOT NULL, 
	cost_nano BIGINT DEFAULT '0' NOT NULL, 
	owner BIGINT DEFAULT '0' NOT NULL, 
	expires_at_s DOUBLE DEFAULT '0' NOT NULL, 
	progress_tokens BIGINT DEFAULT '0' NOT NULL, 
	progress_cost_nano BIGINT DEFAULT '0' NOT NULL, 
	record TEXT DEFAULT '' NOT NULL, 
	swept_at_s DOUBLE DEFAULT '0' NOT NULL, 
	owed_tokens BIGINT DEFAULT '0' NOT NULL, 
	owed_cost_nano BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (hold), 
	CONSTRAINT ledger_holds_amounts CHECK (tokens >= 0 AND cost_nano >= 0 AND progress_tokens >= 0 AND progress_cost_nano >= 0 AND owed_tokens >= 0 AND owed_cost_nano >= 0), 
	CONSTRAINT ledger_holds_path FOREIGN KEY(path) REFERENCES ledger_paths (id), 
	CONSTRAINT ledger_holds_owner FOREIGN KEY(owner) REFERENCES ledger_owners (id)
);
CREATE TABLE ledger_batches (
	id INTEGER NOT NULL, 
	owner BIGINT DEFAULT '0' NOT NULL, 
	sequence BIGINT DEFAULT '0' NOT NULL, 
	entries BIGINT DEFAULT '0' NOT NULL, 
	hash TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT ledger_batches_owner FOREIGN KEY(owner) REFERENCES ledger_owners (id)
);
CREATE TABLE payments (
	id TEXT NOT NULL, 
	organization_id TEXT DEFAULT '' NOT NULL, 
	account TEXT DEFAULT '' NOT NULL, 
	currency TEXT DEFAULT '' NOT NULL, 
	amount_nano BIGINT DEFAULT '0' NOT NULL, 
	note TEXT DEFAULT '' NOT NULL, 
	at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT payments_amount CHECK (amount_nano > 0)
);
CREATE TABLE invoices (
	number TEXT NOT NULL, 
	organization_id TEXT DEFAULT '' NOT NULL, 
	starts_at_s BIGINT DEFAULT '0' NOT NULL, 
	ends_at_s BIGINT DEFAULT '0' NOT NULL, 
	currency TEXT DEFAULT '' NOT NULL, 
	total_nano BIGINT DEFAULT '0' NOT NULL, 
	lines TEXT DEFAULT '[]' NOT NULL, 
	created_at_s DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (number), 
	CONSTRAINT invoices_total CHECK (total_nano >= 0 AND starts_at_s < ends_at_s)
);
CREATE INDEX budgets_scope ON budgets (scope, scope_id);
CREATE UNIQUE INDEX invoices_period ON invoices (organization_id, starts_at_s, ends_at_s);
CREATE INDEX kept_answers_expiry ON kept_answers (expires_at_s);
CREATE INDEX keys_created ON keys (created_at_s, id);
CREATE INDEX keys_lineage ON keys (lineage);
CREATE UNIQUE INDEX ledger_balances_account ON ledger_balances (account, starts_at_s);
CREATE UNIQUE INDEX ledger_batches_chain ON ledger_batches (owner, sequence);
CREATE UNIQUE INDEX ledger_entries_once ON ledger_entries (hold, step);
CREATE INDEX teams_organization ON teams (organization_id);
CREATE INDEX usage_outbox_due ON usage_outbox (reporter, due_at_s, id);
CREATE INDEX users_organization ON users (organization_id);
INSERT INTO alembic_version VALUES ('0006');
PRAGMA user_version=2
