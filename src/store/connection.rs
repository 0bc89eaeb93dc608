//! Connections that serve: straight to PostgreSQL, or by way of a pooler.
//!
//! A pooler in transaction mode (PgBouncer) lends a session of PostgreSQL to its
//! clients for one transaction at a time. sqlx prepares a statement in one round
//! trip and runs it in the next, so the two could meet different sessions; a
//! statement that is prepared under a name stays behind in a session for clients
//! that know another one by that name; and what a client asks for as it connects,
//! its role and timeouts, is refused or dropped. So behind a pooler every statement
//! is prepared without a name, in a transaction that says first what the session
//! is: one of its own, unless it is part of one already. That is three round trips
//! more, and the same in all else, since what a statement relies on (row locks,
//! epochs) never outlives its transaction.
//!
//! Without a pooler statements go straight through, one round trip each.

use std::ops::{Deref, DerefMut};

use async_stream::try_stream;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgCopyIn, PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection as _, Either, Execute, Executor, PgConnection, Postgres, SqlStr};

use super::connect::BEGIN_SERVING;

/// What lies between us and PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing: a session is ours as long as we want it.
    Direct,
    /// A pooler in transaction mode: a session is ours for a transaction.
    Pooler,
}

impl Way {
    const fn begin(self) -> &'static str {
        match self {
            Self::Direct => "BEGIN",
            Self::Pooler => BEGIN_SERVING,
        }
    }
}

/// A connection that serves.
#[derive(Debug)]
pub struct Connection {
    link: Link,
    way: Way,
    /// In a transaction whose end has not been seen.
    unfinished: bool,
}

#[derive(Debug)]
enum Link {
    Own(PgConnection),
    Lent(PoolConnection<Postgres>),
}

impl Deref for Link {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(conn) => conn,
            Self::Lent(conn) => conn,
        }
    }
}

impl DerefMut for Link {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(conn) => conn,
            Self::Lent(conn) => conn,
        }
    }
}

/// A session of PostgreSQL of its own.
impl From<PgConnection> for Connection {
    fn from(conn: PgConnection) -> Self {
        Self::own(conn, Way::Direct)
    }
}

impl Connection {
    pub(super) const fn own(conn: PgConnection, way: Way) -> Self {
        Self { link: Link::Own(conn), way, unfinished: false }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The connection is gone, or its user may not take on the serving role.
    pub async fn begin(&mut self) -> Result<Tx<'_>, sqlx::Error> {
        if self.unfinished {
            self.link.execute("ROLLBACK").await?;
        }
        self.unfinished = true;
        let tx = self.link.begin_with(self.way.begin()).await?;
        Ok(Tx { tx, way: self.way, unfinished: &mut self.unfinished })
    }
}

impl Drop for Connection {
    /// The pool gets nothing back that may be in the middle of a transaction.
    fn drop(&mut self) {
        if let Link::Lent(conn) = &mut self.link
            && self.unfinished
        {
            conn.close_on_drop();
        }
    }
}

/// A transaction of several statements. Dropped, it rolls back.
#[derive(Debug)]
pub struct Tx<'c> {
    tx: sqlx::Transaction<'c, Postgres>,
    way: Way,
    unfinished: &'c mut bool,
}

impl Tx<'_> {
    /// # Errors
    /// Where the connection is gone: whether it was committed is not known.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.tx.commit().await?;
        *self.unfinished = false;
        Ok(())
    }

    /// # Errors
    /// The connection is gone, and what was written with it.
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.tx.rollback().await?;
        *self.unfinished = false;
        Ok(())
    }

    /// Begins `COPY … FROM STDIN`.
    pub async fn copy_in(&mut self, statement: &'static str) -> Result<PgCopyIn<&mut PgConnection>, sqlx::Error> {
        self.tx.copy_in_raw(statement).await
    }
}

/// Connections that HTTP reads share.
#[derive(Clone, Debug)]
pub struct Pool {
    pool: PgPool,
    way: Way,
}

impl Pool {
    pub(super) const fn new(pool: PgPool, way: Way) -> Self {
        Self { pool, way }
    }

    /// One of them, which is back when it is dropped.
    ///
    /// # Errors
    /// All connections are busy, or none could be made.
    pub async fn acquire(&self) -> Result<Connection, sqlx::Error> {
        let link = Link::Lent(self.pool.acquire().await?);
        Ok(Connection { link, way: self.way, unfinished: false })
    }

    /// Closes all, once they are back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

type Results<'e> = BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>;

/// What an [`Executor`] is beside `fetch_many`, the same for all of ours.
macro_rules! by_fetch_many {
    () => {
        type Database = Postgres;

        fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
        where
            'c: 'e,
            E: 'q + Execute<'q, Postgres>,
        {
            Box::pin(async move {
                let mut results = self.fetch_many(query);
                let mut first = None;
                // To the end, since the transaction may fail as it commits.
                while let Some(result) = results.try_next().await? {
                    first = first.or(result.right());
                }
                Ok(first)
            })
        }

        fn prepare_with<'e>(self, _: SqlStr, _: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
        where
            'c: 'e,
        {
            Box::pin(async { Err(sqlx::Error::Protocol("statements are prepared as they run".into())) })
        }

        fn describe<'e>(self, _: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
        where
            'c: 'e,
        {
            Box::pin(async { Err(sqlx::Error::Protocol("statements are described as they run".into())) })
        }
    };
}

impl<'c> Executor<'c> for &'c mut Connection {
    by_fetch_many!();

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Results<'e>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.way {
            Way::Direct => self.link.fetch_many(query),
            Way::Pooler => Box::pin(try_stream! {
                let mut tx = self.begin().await?;
                let mut results = tx.fetch_many(query);
                let ended = loop {
                    match results.try_next().await {
                        Ok(Some(result)) => yield result,
                        ended => break ended,
                    }
                };
                drop(results);
                match ended {
                    Ok(_) => tx.commit().await?,
                    Err(error) => {
                        _ = tx.rollback().await;
                        Err(error)?;
                    }
                }
            }),
        }
    }
}

impl<'c> Executor<'c> for &'c mut Tx<'_> {
    by_fetch_many!();

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Results<'e>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.way {
            Way::Direct => self.tx.fetch_many(query),
            Way::Pooler => self.tx.fetch_many(Unnamed(query)),
        }
    }
}

impl<'c> Executor<'c> for &'c Pool {
    by_fetch_many!();

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Results<'e>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(try_stream! {
            let mut conn = self.acquire().await?;
            let mut results = conn.fetch_many(query);
            while let Some(result) = results.try_next().await? {
                yield result;
            }
        })
    }
}

/// A query whose statement gets no name.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}
