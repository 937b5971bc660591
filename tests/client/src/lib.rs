//! A database and an ordinary role of their own for each test.
//!
//! The server is the one that `PGHOST`, `PGPORT` and `PGUSER` (a superuser) name; `tests/tools/server.sh` starts
//! one. The superuser sets things up; every claim is made by the ordinary role.

pub mod property;
pub mod random;

use std::env;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use postgres::error::DbError;
use postgres::{Client, Config, NoTls};

static NUMBER: AtomicU32 = AtomicU32::new(0);
/// Two sessions cannot change the privileges of one parameter at the same time.
static GRANTS: Mutex<()> = Mutex::new(());

/// A database with the extension, and a role that may set the tenant; both are dropped at the end.
pub struct Database {
    root: Client,
    name: String,
    role: String,
    others: Vec<String>,
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: start a server with tests/tools/server.sh"))
}

fn config(user: &str, database: &str) -> Config {
    let port = variable("PGPORT").parse().expect("PGPORT is a number");
    let mut config = Config::new();
    config.host(&variable("PGHOST")).port(port).user(user).dbname(database);
    config
}

fn connect(user: &str, database: &str) -> Client {
    config(user, database)
        .connect(NoTls)
        .unwrap_or_else(|error| panic!("cannot connect as {user} to {database}: {error}"))
}

fn superuser() -> String {
    env::var("PGUSER").unwrap_or_else(|_| "postgres".to_owned())
}

impl Database {
    pub fn create(label: &str) -> Database {
        Database::create_encoded(label, "UTF8")
    }

    pub fn create_encoded(label: &str, encoding: &str) -> Database {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("client_{label}_{}_{number}", std::process::id());
        let role = format!("{name}_app");
        let mut root = connect(&superuser(), "postgres");
        let _one_at_a_time = GRANTS.lock().unwrap_or_else(PoisonError::into_inner);
        root.batch_execute(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LOCALE 'C'"
        ))
        .expect("create a database");
        root.batch_execute(&format!("CREATE ROLE {role} LOGIN")).expect("create a role");
        let database = Database { root, name, role: role.clone(), others: Vec::new() };
        database
            .admin()
            .batch_execute(&format!(
                "SET client_min_messages = warning;
                 CREATE EXTENSION tenancy;
                 GRANT SET ON PARAMETER tenancy.tenant_id TO {role};
                 ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
                 ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO {role};"
            ))
            .expect("create the extension");
        database
    }

    /// A connection of the superuser, who is not subject to row-level security.
    pub fn admin(&self) -> Client {
        let mut client = connect(&superuser(), &self.name);
        client.batch_execute("SET client_min_messages = warning").expect("quiet");
        client
    }

    /// A connection of the ordinary role.
    pub fn app(&self) -> Client {
        connect(&self.role, &self.name)
    }

    /// The same, which hands on what the server says beside its answers.
    pub fn app_with_notices(&self, notice: impl Fn(DbError) + Send + Sync + 'static) -> Client {
        let mut config = config(&self.role, &self.name);
        config.notice_callback(notice).connect(NoTls).expect("connect as the ordinary role")
    }

    pub fn role(&self) -> &str {
        &self.role
    }

    /// What grants or revokes privileges on a parameter.
    pub fn change_privileges(&self, command: &str) {
        let _one_at_a_time = GRANTS.lock().unwrap_or_else(PoisonError::into_inner);
        self.admin().batch_execute(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    /// Another role, which may nothing.
    pub fn another_role(&mut self, label: &str) -> String {
        let role = format!("{}_{label}", self.name);
        self.root.batch_execute(&format!("CREATE ROLE {role}")).expect("create another role");
        self.others.push(role.clone());
        role
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _one_at_a_time = GRANTS.lock().unwrap_or_else(PoisonError::into_inner);
        // What fails here must not hide what failed in the test.
        let mut commands = vec![format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)];
        for role in self.others.iter().chain([&self.role]) {
            commands.extend([format!("DROP OWNED BY {role}"), format!("DROP ROLE IF EXISTS {role}")]);
        }
        for command in commands {
            if let Err(error) = self.root.batch_execute(&command) {
                eprintln!("{command}: {error}");
            }
        }
    }
}
