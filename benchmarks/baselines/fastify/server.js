// Fastify and node-postgres: a pool, a prepared statement, rows to JSON; no middleware, no sign-in, no log.
import Fastify from "fastify";
import pg from "pg";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
const app = Fastify();

const OFFERS = `SELECT id, merchant_id, title, description, brand, url, image_url, currency, price_minor,
  price_max_minor, available FROM offers WHERE merchant_id = $1 AND removed_at IS NULL ORDER BY id DESC LIMIT 20`;
const WALLET = `SELECT currency, pending_minor, available_minor, in_payout_minor, paid_minor, debt_minor
  FROM wallets WHERE customer_id = $1 ORDER BY currency`;

app.get("/offers/:id", async (request) => {
  const found = await pool.query({ name: "offers", text: OFFERS, values: [request.params.id] });
  return { items: found.rows };
});
app.get("/wallet/:id", async (request) => {
  const found = await pool.query({ name: "wallet", text: WALLET, values: [request.params.id] });
  return { balances: found.rows };
});

await app.listen({ host: "127.0.0.1", port: Number(process.env.PORT) });
