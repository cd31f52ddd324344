// The benchmark's peer: what a small TypeScript Worker for the same task looks like. Hono routes, WebCrypto
// verifies the signed URL, `fetch` forwards. It keeps its imported key, as the edge keeps its settings.
import { Hono } from "hono";

type Env = { MOLTBOT_SIGNING_SECRET: string; LEGACY_ORIGIN: string };

let key: Promise<CryptoKey> | undefined;
const signingKey = (secret: string) =>
  (key ??= crypto.subtle.importKey("raw", new TextEncoder().encode(secret), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]));

const decode = (text: string) => {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(binary, (c) => c.charCodeAt(0));
};

async function verify(url: URL, env: Env): Promise<string | null> {
  const userId = url.searchParams.get("userId");
  const exp = url.searchParams.get("exp");
  const sig = url.searchParams.get("sig");
  if (!userId || !exp || !sig) return "Missing required params (userId, exp, sig)";
  if (!/^[0-9]{1,12}$/.test(exp)) return "Invalid exp format";
  if (Number(exp) < Date.now() / 1000) return "URL expired";
  if (!/^user_[A-Za-z0-9_.-]+$/.test(userId)) return "Invalid userId format";
  if (sig.length !== 43) return "Invalid signature";
  const message = new TextEncoder().encode(`${userId}.${exp}`);
  const good = await crypto.subtle.verify("HMAC", await signingKey(env.MOLTBOT_SIGNING_SECRET), decode(sig), message);
  return good ? null : "Invalid signature";
}

const app = new Hono<{ Bindings: Env }>();

app.use(async (c, next) => {
  const problem = await verify(new URL(c.req.url), c.env);
  if (problem) return c.json({ error: "Unauthorized", details: problem }, 401);
  await next();
});
app.get("/_edge/session", (c) => c.body(null, 204));
app.all("*", (c) => {
  const url = new URL(c.req.url);
  return fetch(new Request(`${c.env.LEGACY_ORIGIN}${url.pathname}${url.search}`, c.req.raw));
});

export default app;
