// Uses the file API as the dashboard would: a page of another, allowed origin calls the edge with `fetch`.
//   node files.mjs NODE_MODULES CHROMIUM PAGE EDGE QUERY
import { withPage } from "./launch.mjs";

const [modules, chromium, pageUrl, edge, query] = process.argv.slice(2);
await withPage(modules, chromium, async (page) => {
  try {
    await page.goto(pageUrl);
    const steps = await page.evaluate(
      async ({ edge, query }) => {
        const steps = [];
        const url = (path, more = "") => `${edge}/api/files${path}?${query}${more}`;
        const call = async (name, path, more, init) => {
          const answer = await fetch(url(path, more), init);
          const kind = answer.headers.get("content-type") ?? "";
          const body = kind.includes("json") ? await answer.json() : await answer.text();
          if (!answer.ok) throw new Error(`${name}: ${answer.status} ${JSON.stringify(body)}`);
          steps.push(name);
          return { answer, body };
        };
        const json = (body) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
        const must = (what, holds) => {
          if (!holds) throw new Error(`not so: ${what}`);
        };
        const at = (name) => `/root/clawd/dashboard/${name}`;
        const path = (name) => `&path=${encodeURIComponent(at(name))}`;

        await call("write", "/write", "", json({ path: at("a.md"), content: "first" }));
        const { body: read } = await call("read", "/read", path("a.md"));
        must("what was written is read", read.content === "first");
        const form = new FormData();
        form.set("file", new Blob(["bytes"]), "ü.bin");
        form.set("path", at("ü.bin"));
        await call("upload", "/upload", "", { method: "POST", body: form });
        const { answer: got, body: bytes } = await call("download", "/download", path("ü.bin"));
        must("the upload is downloaded", bytes === "bytes");
        must("the page may read the file's name", got.headers.get("content-disposition")?.includes("attachment"));
        await call("rename", "/move", "", json({ from: at("a.md"), to: at("b.md") }));
        const { body: list } = await call("list", "/list", `&path=${encodeURIComponent("/root/clawd/dashboard")}`);
        must("both are listed", list.files.map((file) => file.name).sort().join() === "b.md,ü.bin");
        const { body: gone } = await call("delete", "/", path("b.md"), { method: "DELETE" });
        const after = await fetch(url("/read", path("b.md")));
        must("it is gone", after.status === 404 && (await after.json()).error === "File not found");
        await call("restore", "/trash/restore", "", json({ trashPath: gone.trashPath }));
        const { answer: raw } = await call("resource", `/raw/dashboard/b.md`, "");
        const tag = raw.headers.get("etag");
        must("the page may read the tag", tag?.startsWith('"'));
        const put = (condition) => fetch(url("/raw/dashboard/b.md"), { method: "PUT", headers: { "if-match": condition }, body: "second" });
        must("an editor replaces what it has seen", (await put(tag)).ok);
        must("and nothing else", (await put(tag)).status === 412);
        steps.push("conditional write");
        const { body: found } = await call("search", "/search", "&q=second");
        must("the new content is found", found.results.map((hit) => hit.path).includes(at("b.md")) && found.truncated.length === 0);

        // Events are read as a stream; the second one goes on where the first one was left, as after a lost connection.
        const events = async function* (headers) {
          const answer = await fetch(url("/events"), { headers });
          must("the events may be followed", answer.ok);
          let text = "";
          for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
            const whole = (text += part).split("\n\n");
            text = whole.pop();
            for (const one of whole) {
              const field = (name) => one.match(new RegExp(`^${name}: (.*)$`, "m"))?.[1];
              if (field("event")) yield { id: field("id"), event: field("event"), data: JSON.parse(field("data")) };
            }
          }
        };
        let id;
        for await (const event of events({})) {
          id = event.id;
          if (event.event === "ready") await call("write", "/write", "", json({ path: at("c.md"), content: "third" }));
          if (event.data.path === at("c.md")) break;
        }
        steps.push("followed");
        await call("write", "/write", "", json({ path: at("d.md"), content: "fourth" }));
        for await (const event of events({ "last-event-id": id })) {
          must("nothing is told twice", event.data.path !== at("c.md") || event.event === "modified");
          if (event.data.path === at("d.md")) break;
        }
        steps.push("followed on");
        return steps;
      },
      { edge, query },
    );
    console.log(JSON.stringify(steps));
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
});
