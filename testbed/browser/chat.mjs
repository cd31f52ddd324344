// Opens the agent's own page at a signed URL, sends a message, waits for the streamed answer, takes a picture.
//   node chat.mjs NODE_MODULES CHROMIUM URL MESSAGE ANSWER SCREENSHOT
import { withPage } from "./launch.mjs";

const [modules, chromium, url, message, answer, screenshot] = process.argv.slice(2);
await withPage(modules, chromium, async (page) => {
  const sockets = [];
  page.on("websocket", (socket) => sockets.push(new URL(socket.url()).pathname));
  const problems = [];
  page.on("response", (response) => {
    const { origin, pathname } = new URL(response.url());
    if (origin === new URL(url).origin && response.status() >= 400) problems.push(`${response.status()} ${pathname}`);
  });

  try {
    await page.goto(url);
    const box = page.locator("textarea").first();
    await box.waitFor({ timeout: 30_000 });
    // The box takes text once the page is connected.
    await page.waitForFunction(() => !document.querySelector("textarea")?.disabled, null, { timeout: 60_000 });
    await box.fill(message);
    await box.press("Enter");
    await page.getByText(answer).first().waitFor({ timeout: 60_000 });
    // What the address bar and scripts can see of the proof.
    const cookie = await page.evaluate(() => document.cookie);
    if (cookie !== "") throw new Error("a script can read the session cookie");
    if (sockets.length === 0) throw new Error("the page has opened no WebSocket");
    if (problems.length > 0) throw new Error(`the page was refused: ${problems.join(", ")}`);
    await page.screenshot({ path: screenshot });
    console.log(JSON.stringify({ sockets, title: await page.title() }));
  } catch (error) {
    await page.screenshot({ path: screenshot }).catch(() => {});
    console.error(`${error.message}\nproblems: ${problems.join(", ")}\nsockets: ${sockets.join(", ")}\npage: ${(await page.locator("body").innerText().catch(() => "")).slice(0, 1500)}`);
    process.exitCode = 1;
  }
});
