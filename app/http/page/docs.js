// Swagger UI on the service's own contract. Keys are kept in memory alone: gone with the page.

const at = new URL("openapi.json", import.meta.url);

const spec = await (await fetch(at)).json();
// Without a prefix known to the service, its routes are beside this file, wherever that is.
spec.servers ??= [{ url: new URL(".", at).pathname.replace(/\/$/, "") || "/" }];

globalThis.SwaggerUIBundle({
  spec,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // it would send the contract's address to swagger.io
});
