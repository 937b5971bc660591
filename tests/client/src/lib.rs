//! A database and an ordinary role of their own for each test.
//!
//! The server is the one that `PGHOST`, `PGPORT` and `PGUSER` (a superuser) name; `tests/tools/server.sh` starts
//! one. The superuser sets things up; every claim is made by the ordinary role.

pub mod property;

use std::env;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use postgres::{Client, Config, NoTls};

static NUMBER: AtomicU32 = AtomicU32::new(0);
/// Two sessions cannot change the privileges of one parameter at the same time.
static GRANTS: Mutex<()> = Mutex::new(());

/// A database with the extension, and a role that may set the tenant; both are dropped at the end.
pub struct Database {
    root: Client,
    name: String,
    role: String,
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: start a server with tests/tools/server.sh"))
}

fn connect(user: &str, database: &str) -> Client {
    let port = variable("PGPORT").parse().expect("PGPORT is a number");
    Config::new()
        .host(&variable("PGHOST"))
        .port(port)
        .user(user)
        .dbname(database)
        .connect(NoTls)
        .unwrap_or_else(|error| panic!("cannot connect as {user} to {database}: {error}"))
}

fn superuser() -> String {
    env::var("PGUSER").unwrap_or_else(|_| "postgres".to_owned())
}

impl Database {
    pub fn create(label: &str) -> Database {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("client_{label}_{}_{number}", std::process::id());
        let role = format!("{name}_app");
        let mut root = connect(&superuser(), "postgres");
        let _one_at_a_time = GRANTS.lock().unwrap_or_else(PoisonError::into_inner);
        root.batch_execute(&format!("CREATE DATABASE {name}")).expect("create a database");
        root.batch_execute(&format!("CREATE ROLE {role} LOGIN")).expect("create a role");
        let database = Database { root, name, role: role.clone() };
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

    pub fn role(&self) -> &str {
        &self.role
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _one_at_a_time = GRANTS.lock().unwrap_or_else(PoisonError::into_inner);
        // What fails here must not hide what failed in the test.
        for command in [
            format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name),
            format!("DROP OWNED BY {}", self.role),
            format!("DROP ROLE IF EXISTS {}", self.role),
        ] {
            if let Err(error) = self.root.batch_execute(&command) {
                eprintln!("{command}: {error}");
            }
        }
    }
}
